"""What two versions of a program understand of each other's messages."""

from __future__ import annotations

import pickle
from dataclasses import field

import pytest

from gating.message import message


@message
class Before:
    name: str
    count: int = 1


@message
class After:
    colour: str = "green"
    name: str = "none"
    parts: list[int] = field(default_factory=list)
    count: int = 1


@message
class Demanding:
    name: str
    owner: str


def read_as(kind: type, written: object) -> object:
    """What a program that knows the class by another definition makes of a pickle."""
    text = pickle.dumps(written, protocol=0).decode()
    return pickle.loads(text.replace(type(written).__name__, kind.__name__).encode())


def test_the_same_version_reads_what_it_wrote() -> None:
    assert pickle.loads(pickle.dumps(After("red", "a", [1], 2))) == After("red", "a", [1], 2)


def test_a_field_that_the_reader_does_not_know_is_left_out_wherever_it_stands() -> None:
    assert read_as(Before, After("red", "a", [1], 2)) == Before("a", 2)


def test_a_field_that_the_writer_did_not_know_has_its_default_of_its_own() -> None:
    first, second = (read_as(After, Before("a", 2)) for _ in range(2))
    assert first == After("green", "a", [], 2)
    assert isinstance(first, After)
    assert isinstance(second, After)
    assert first.parts is not second.parts


def test_a_field_without_a_default_that_is_missing_is_named() -> None:
    with pytest.raises(TypeError, match=r"Demanding without 'owner' .* upgrade one version at a time"):
        read_as(Demanding, Before("a"))


def test_a_message_is_frozen_and_has_no_room_for_more() -> None:
    with pytest.raises(AttributeError):
        Before("a").name = "b"  # type: ignore[misc]
    assert not hasattr(Before("a"), "__dict__")
