"""Checkpoints that were cut short, altered, deleted by half, or are not to be trusted."""

from __future__ import annotations

import logging
import uuid

import pytest
import torch
from safetensors.torch import load
from safetensors.torch import save as to_safetensors

from learner import checkpoint
from learner.checkpoint import CheckpointStore
from learner.errors import CheckpointCorruptError, CheckpointMismatchError, UnknownVersionError

from .checkpoints import OTHER_LOG, Files, content, expected, learned, save


@pytest.fixture(params=["path", "memory"])
def url(request, tmp_path):
    return str(tmp_path / "checkpoints") if request.param == "path" else f"memory://{uuid.uuid4().hex}/checkpoints"


@pytest.fixture
def store(url):
    return CheckpointStore(url, keep=3)


@pytest.fixture
def two(store):
    """A good checkpoint and the one after it, which is to be damaged."""
    return save(store, learned(version=3, seed=1)), save(store, learned(version=9))


def skipped(caplog):
    """The names of the checkpoints that were skipped, which takes one error line each."""
    assert all(record.levelno == logging.ERROR for record in caplog.records)
    lines = [record.getMessage() for record in caplog.records]
    caplog.clear()
    assert all(line.startswith("checkpoint_skipped name=") and " reason=" in line for line in lines)
    return [line.split("name=")[1].split(" ")[0] for line in lines]


def assert_the_one_before_is_used(store, two, caplog):
    state, manifest = store.newest(expected())
    assert manifest == two[0]
    assert content(state) == content(learned(version=3, seed=1))
    assert skipped(caplog) == [two[1].name]
    assert store.newest(expected(), at_most=9)[1] == two[0]
    assert skipped(caplog) == [two[1].name]


def test_tensors_cut_short_anywhere_are_noticed(store, url, two, caplog):
    whole = Files(url).read(two[1].name, two[1].tensors)
    for length in (*range(0, len(whole), 10), len(whole) - 1):
        Files(url).put(two[1].name, two[1].tensors, whole[:length])
        with pytest.raises(CheckpointCorruptError, match=f"{two[1].name}: .* has {length} bytes"):
            store.load(two[1], expected())
        assert store.newest(expected())[1] == two[0]
        assert skipped(caplog) == [two[1].name]
    Files(url).put(two[1].name, two[1].tensors, whole + b"\0")
    assert_the_one_before_is_used(store, two, caplog)


def test_a_flipped_byte_of_the_tensors_is_noticed(store, url, two, caplog):
    whole = Files(url).read(two[1].name, two[1].tensors)
    for position in range(0, len(whole), 37):
        altered = bytearray(whole)
        altered[position] ^= 1
        Files(url).put(two[1].name, two[1].tensors, bytes(altered))
        assert_the_one_before_is_used(store, two, caplog)


def test_a_damaged_manifest_is_noticed(store, url, two, caplog):
    whole = Files(url).read(two[1].name)
    altered = [whole[:length] for length in range(0, len(whole), 97)]
    altered += [whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :] for at in range(0, len(whole), 41)]
    for text in altered:
        Files(url).put(two[1].name, "manifest.json", text)
        assert_the_one_before_is_used(store, two, caplog)
        assert store.list() == [two[0]]
        assert skipped(caplog) == [two[1].name]
        with pytest.raises(CheckpointCorruptError, match=f"checkpoint {two[1].name}: the manifest"):
            store.find(two[1].name)


def test_all_that_are_damaged_are_skipped(store, url, two, caplog):
    for manifest in two:
        Files(url).put(manifest.name, manifest.tensors, b"")
    assert store.newest(expected()) is None
    assert skipped(caplog) == [two[1].name, two[0].name]


def test_missing_tensors_are_noticed(store, url, two, caplog):
    Files(url).remove(two[1].name, two[1].tensors)
    assert_the_one_before_is_used(store, two, caplog)


def test_without_a_manifest_there_is_no_checkpoint(store, url, two, caplog):
    Files(url).remove(two[1].name, "manifest.json")
    assert store.list() == [two[0]]
    assert store.newest(expected())[1] == two[0]
    assert skipped(caplog) == []
    with pytest.raises(UnknownVersionError, match="there is no checkpoint"):
        store.find(two[1].name)
    third = save(store)
    assert third.number == 3
    assert store.list() == [third, two[0]]
    with pytest.raises(FileNotFoundError):
        Files(url).read(two[1].name, two[1].tensors)


def test_a_checkpoint_under_another_name_is_noticed(store, url, two, caplog):
    for file in ("manifest.json", two[1].tensors):
        Files(url).put("00000007-v9", file, Files(url).read(two[1].name, file))
    assert store.list() == [*reversed(two)]
    assert skipped(caplog) == ["00000007-v9"]
    assert save(store).number == 8


def test_the_oldest_is_the_oldest_that_can_be_read(store, url, two, caplog):
    Files(url).put(two[0].name, "manifest.json", b"?")
    assert store.oldest() == two[1]
    assert skipped(caplog) == [two[0].name]


def test_damaged_ones_do_not_take_the_places_of_those_that_are_kept(store, url):
    manifests = [save(store) for _ in range(3)]
    Files(url).put(manifests[1].name, "manifest.json", b"?")
    manifests.append(save(store))
    assert [manifest.number for manifest in store.list()] == [4, 3, 1]
    manifests += [save(store), save(store)]
    assert [manifest.number for manifest in store.list()] == [6, 5, 4]
    with pytest.raises(FileNotFoundError):
        Files(url).read(manifests[1].name)


def test_an_absurdly_large_manifest_is_not_read(store, two, caplog, monkeypatch):
    monkeypatch.setattr(checkpoint, "_LARGEST_MANIFEST", 100)
    assert store.list() == []
    assert skipped(caplog) == [two[1].name, two[0].name]


def test_a_manifest_that_was_altered_in_memory_is_noticed(store, two):
    with pytest.raises(CheckpointCorruptError, match="checksum"):
        store.load(two[1].model_copy(update={"version": 10}), expected())


def test_damage_goes_before_mismatch(store, url, two, caplog):
    other = save(store, log_id=OTHER_LOG)
    Files(url).put(other.name, other.tensors, b"")
    assert store.newest(expected())[1] == two[1]
    assert skipped(caplog) == [other.name]
    with pytest.raises(CheckpointMismatchError):
        store.newest(expected(log_id=OTHER_LOG))


def test_altered_tensors_are_noticed_though_size_and_sha256_go_with_them(store, url, two, caplog):
    tensors = load(Files(url).read(two[1].name, two[1].tensors))
    tensors["rows.weight"][0, 0] += 1
    Files(url).forge(two[1], to_safetensors(tensors))
    with pytest.raises(CheckpointCorruptError, match="digest"):
        store.load(store.find(two[1].name), expected())
    assert_the_one_before_is_used(store, two, caplog)


FORGERIES = {
    "no safetensors file": lambda tensors: b"\x80\x04pickle, or whatever else",
    "huge header": lambda tensors: (2**62).to_bytes(8, "little") + b"{}" + bytes(50),
    "a row too few": lambda tensors: to_safetensors(tensors | {"rows.bias": tensors["rows.bias"][:2].clone()}),
    "a row of no axis": lambda tensors: to_safetensors(tensors | {"rows.bias": torch.tensor(1.0)}),
    "counts of other uids": lambda tensors: to_safetensors(tensors | {"statistics.resets": torch.zeros(4).long()}),
    "counts of another type": lambda tensors: to_safetensors(tensors | {"statistics.resets": torch.zeros(3)}),
    "fewer counts": lambda tensors: to_safetensors(
        {name: tensor for name, tensor in tensors.items() if name != "statistics.resets"}
    ),
    "more counts": lambda tensors: to_safetensors(tensors | {"statistics.more": torch.zeros(3)}),
    "another part": lambda tensors: to_safetensors(tensors | {"code.x": torch.zeros(3)}),
    "a type that numpy lacks": lambda tensors: to_safetensors(tensors | {"rows.x": torch.zeros(3).bfloat16()}),
    "not finite": lambda tensors: to_safetensors(tensors | {"shared.rate": torch.tensor(torch.nan)}),
}
REASONS = {
    "no safetensors file": "no safetensors file",
    "huge header": "no safetensors file",
    "a row too few": r"rows\.bias has the shape \(2,\) for 3 uids",
    "a row of no axis": r"rows\.bias has the shape \(\) for 3 uids",
    "counts of other uids": r"statistics\.resets is int64 \(4,\)",
    "counts of another type": r"statistics\.resets is float32",
    "fewer counts": "statistics are",
    "more counts": "statistics are",
    "another part": r"'code\.x'",
    "a type that numpy lacks": "bfloat16",
    "not finite": "not finite",
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_tensors_that_do_not_fit_are_noticed_though_all_checksums_are_right(store, url, two, caplog, forgery):
    tensors = load(Files(url).read(two[1].name, two[1].tensors))
    Files(url).forge(two[1], FORGERIES[forgery](tensors))
    with pytest.raises(CheckpointCorruptError, match=REASONS[forgery]):
        store.load(store.find(two[1].name), expected())
    assert_the_one_before_is_used(store, two, caplog)


def test_held_events_that_cannot_be_are_noticed(store, url, two, caplog):
    whole = Files(url).read(two[1].name, two[1].tensors)
    Files(url).forge(two[1], whole, held={"frozen": [[1, 2**60]]})
    assert_the_one_before_is_used(store, two, caplog)


def test_a_view_of_other_uids_is_noticed(store, url, two, caplog):
    whole = Files(url).read(two[1].name, two[1].tensors)
    unsaid = {"netuid": 0, "block": 0, "serving": [], "validator_permit": [], "stake": []}
    view = {"hotkeys": ["a"], "available": [True], "registered_at": [None]} | unsaid
    Files(url).forge(two[1], whole, view=view)
    assert_the_one_before_is_used(store, two, caplog)
