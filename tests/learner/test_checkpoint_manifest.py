"""The manifest's text: what is saved of a state beside its tensors."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gating import MetagraphView
from learner.checkpoint import Manifest
from learner.checkpoint_manifest import SavedTenures, held_from_ranges, held_to_ranges
from learner.errors import CheckpointCorruptError
from learner.state import Held
from learner.tenures import Tenures

from .checkpoints import forged

SEQS = st.integers(1, 60) | st.integers(1, 2**62)
HELD = st.dictionaries(SEQS, st.sampled_from(Held))
TENURES = st.builds(
    Tenures,
    st.dictionaries(st.integers(0, 4095), SEQS),
    st.dictionaries(st.integers(0, 4095), st.sets(st.text(max_size=5).filter(str.isprintable), min_size=1)),
)
VIEWS = st.lists(
    st.tuples(st.text(max_size=5).filter(str.isprintable), st.booleans(), st.none() | st.integers(0, 2**40))
)


def manifest(**changes: object) -> Manifest:
    said: dict[str, object] = {
        "name": "00000001-v12",
        "number": 1,
        "application": "gate",
        "log_id": "log",
        "epoch": 1,
        "version": 12,
        "decisions": 3,
        "view": MetagraphView.from_hotkeys(["a", "b"]),
        "rule": {"name": "adagrad", "learning_rate": 0.1},
        "fingerprint": "tiny",
        "dim": 4,
        "frozen": False,
        "held": {},
        "tenures": SavedTenures(since={}, former_hotkeys={}),
        "digest": "0" * 64,
        "tensors": "tensors.safetensors",
        "tensors_size": 100,
        "tensors_sha256": "0" * 64,
        "created_at": "2025-01-01T00:00:00+00:00",
    }
    return Manifest(**(said | changes)).sealed()


@given(HELD)
def test_held_events_survive_as_ranges(held):
    restored = held_from_ranges(held_to_ranges(held))
    assert list(restored.items()) == sorted(held.items())


@given(HELD)
def test_ranges_are_as_few_as_can_be(held):
    for mine in held_to_ranges(held).values():
        for (_, last), (first, _) in pairwise(mine):
            assert first > last + 1


@pytest.mark.parametrize(
    "ranges",
    [
        {"frozen": [(3, 2)]},
        {"frozen": [(1, 4), (4, 5)]},
        {"frozen": [(1, 4)], "rolled_back": [(2, 3)]},
        {"bored": [(1, 4)]},
        {"frozen": [(-3, 2)]},
        {"frozen": [(1, 2**62)]},
    ],
)
def test_what_is_no_ranges_is_corrupt(ranges):
    with pytest.raises(CheckpointCorruptError, match=r"held events|holds more"):
        held_from_ranges(ranges)


@given(HELD, TENURES, st.booleans(), VIEWS, st.floats(allow_nan=False, allow_infinity=False))
def test_a_manifest_survives_as_text(held, tenures, frozen, uids, rate):
    hotkeys, available, registered_at = zip(*uids, strict=True) if uids else ((), (), ())
    view = MetagraphView(hotkeys=hotkeys, available=available, registered_at=registered_at)
    written = manifest(
        held=held_to_ranges(held), tenures=SavedTenures.of(tenures), frozen=frozen, view=view, rule={"rate": rate}
    )
    read = Manifest.from_json(written.to_json())
    assert read == written
    assert read.view == view
    assert read.tenures.restored() == tenures
    assert held_from_ranges(read.held) == held


def test_the_same_tenures_are_the_same_text():
    texts = {
        manifest(tenures=SavedTenures.of(Tenures({1: 2, 0: 3}, {0: set(order)}))).to_json()
        for order in (["x", "y", "z", "w"], ["w", "z", "y", "x"])
    }
    assert len(texts) == 1


def test_every_flipped_bit_of_the_text_is_noticed():
    text = manifest(held={"frozen": ((1, 2),)}, rule={"tiny": 1e-12, "name": "adagrad"}).to_json()
    for position in range(len(text)):
        for bit in (0, 3, 5, 7):
            altered = bytearray(text)
            altered[position] ^= 1 << bit
            with pytest.raises(CheckpointCorruptError, match="the manifest"):
                Manifest.from_json(bytes(altered))


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"null", b"{}", b'{"format":1}', b'{"format":2}', b'{"format":true}', b"\xff"]
)
def test_other_text_is_no_manifest(text):
    with pytest.raises(CheckpointCorruptError, match="the manifest"):
        Manifest.from_json(text)


def test_the_same_content_in_other_words_is_noticed():
    text = manifest(rule={"tiny": 1e-12}).to_json()
    for altered in (text.replace(b"1e-12", b"1E-12"), text + b"\n", text.replace(b":1,", b": 1,", 1)):
        assert altered != text
        with pytest.raises(CheckpointCorruptError, match="not in the form"):
            Manifest.from_json(altered)


def test_a_newer_format_is_named():
    with pytest.raises(CheckpointCorruptError, match="format is 2, this Tidegate reads 1"):
        Manifest.from_json(forged(manifest(), format=2))


@pytest.mark.parametrize(
    "changes",
    [
        {"tensors": "../other.safetensors"},
        {"tensors": "/etc/passwd"},
        {"epoch": -1},
        {"dim": 0},
        {"view": {"hotkeys": [1], "available": [True], "registered_at": [1]}},
        {"view": {"hotkeys": ["a"], "available": [True], "registered_at": []}},
        {"version": True},
        {"frozen": 1},
        {"held": {"frozen": [[1]]}},
        {"surprise": 1},
    ],
)
def test_a_manifest_that_cannot_be_is_refused_though_its_checksum_is_right(changes):
    with pytest.raises(CheckpointCorruptError, match="the manifest is malformed at"):
        Manifest.from_json(forged(manifest(), **changes))
