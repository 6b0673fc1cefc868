"""Checkpoints as they should be: saved, found, loaded, pruned, refused, set aside."""

from __future__ import annotations

import logging
import sys
import uuid
from dataclasses import replace

import orjson
import pytest
import torch

from learner.checkpoint import CheckpointStore
from learner.checkpoint_files import shown
from learner.config import AdagradConfig, SoftmaxMseConfig, settings_of
from learner.errors import CheckpointError, CheckpointMismatchError, UnknownVersionError
from learner.rules import build_rule
from learner.snapshot_source import load_snapshot
from learner.state import LearnerState, RuleIdentity, RuleState, UidStatistics

from .checkpoints import DIM, LOG, OTHER_LOG, RULES, VIEW, Files, content, expected, forged, learned, save


@pytest.fixture(params=["path", "file", "memory"])
def url(request, tmp_path):
    place = f"memory://{uuid.uuid4().hex}/gate/checkpoints"
    return {"path": f"{tmp_path}/gate/checkpoints", "file": f"file://{tmp_path}/checkpoints", "memory": place}[
        request.param
    ]


@pytest.fixture
def store(url):
    return CheckpointStore(url, keep=3)


@pytest.mark.parametrize("config", RULES, ids=lambda config: config.name)
def test_a_state_comes_back_to_the_bit(store, config):
    state = learned(config)
    manifest = save(store, state)
    want = expected(rule=settings_of(config))
    assert content(store.load(manifest, want)) == content(state)
    loaded, found = store.newest(want)
    assert content(loaded) == content(state)
    assert found == manifest


@pytest.mark.parametrize("config", RULES, ids=lambda config: config.name)
def test_learning_goes_on_from_a_loaded_state(store, config):
    state, rule = learned(config), build_rule(config)
    loaded = store.load(save(store, state), expected(rule=settings_of(config)))
    for each in (state, loaded):
        for tensor in (*each.rule.rows.values(), *each.rule.shared.values()):
            tensor += 1 if tensor.dtype != torch.bool else True
        each.statistics.selections[0] = 1
    assert torch.equal(rule.head(state.rule).weight, rule.head(loaded.rule).weight)


def test_strided_shared_empty_and_scalar_tensors_come_back(store):
    base = torch.arange(6.0).reshape(2, 3)
    rows = {"a.b": base.T, "c": base.T[:, 0], "flags": torch.tensor([True, False, True]), "none": torch.zeros(3, 0)}
    shared = {"step": torch.tensor(2**60), "half": torch.tensor(-0.0, dtype=torch.float16)}
    identity = RuleIdentity("adagrad", settings_of(RULES[0]))
    state = LearnerState(VIEW, RuleState(rows, shared), UidStatistics.empty(3), identity=identity)
    loaded = store.load(save(store, state), expected())
    assert content(loaded) == content(state)


def test_a_manifest_says_what_it_is_of(store):
    manifest = save(store)
    assert (manifest.name, manifest.number, manifest.version) == ("00000001-v12", 1, 12)
    assert (manifest.application, manifest.log_id, manifest.epoch, manifest.decisions) == ("gate", LOG, 5, 31)
    assert (manifest.fingerprint, manifest.dim, manifest.rule) == ("tiny", DIM, settings_of(RULES[0]))
    assert manifest.held == {"frozen": ((3, 4),), "non_finite": ((5, 5),), "rolled_back": ((7, 7),)}
    assert manifest.created_at.endswith("+00:00")
    assert store.list() == [manifest]
    assert store.find("00000001-v12") == manifest


def test_nothing_is_found_where_nothing_was_saved(store, url):
    assert store.list() == []
    assert store.newest(expected()) is None
    assert store.oldest() is None
    assert store.set_aside(None) == []
    assert load_snapshot(store, expected(), build_rule) is None


def test_the_newest_come_first_and_the_oldest_go(store, url):
    names = [save(store, learned(version=version)).name for version in (1, 9, 9, 4, 20)]
    assert names == ["00000001-v1", "00000002-v9", "00000003-v9", "00000004-v4", "00000005-v20"]
    assert [manifest.name for manifest in store.list()] == names[:1:-1]
    assert Files(url).names() == set(names[2:])
    assert store.oldest().name == names[2]
    assert store.newest(expected())[1].name == names[4]


def test_another_store_at_the_same_place_sees_them_and_counts_on(store, url):
    save(store)
    other = CheckpointStore(url, keep=1)
    assert other.list() == store.list()
    assert save(other).number == 2
    assert [manifest.number for manifest in store.list()] == [2]


def test_numbers_are_ordered_as_numbers(store, url):
    first, files = save(store), Files(url)
    files.put("99999999-v12", first.tensors, files.read(first.name, first.tensors))
    files.put("99999999-v12", "manifest.json", forged(first, name="99999999-v12", number=99_999_999))
    manifest = save(store)
    assert manifest.name == "100000000-v12"
    assert [each.number for each in store.list()] == [100_000_000, 99_999_999, 1]
    assert store.newest(expected())[1] == manifest


def test_numbers_go_on_after_those_that_cannot_be_read(store, url):
    Files(url).put("00000041-v1", "manifest.json", b"")
    assert save(store).number == 42


def test_at_least_one_has_to_be_kept(tmp_path):
    with pytest.raises(ValueError, match="keep is 0"):
        CheckpointStore(str(tmp_path), keep=0)


def test_find_names_what_there_is(store):
    save(store)
    for name in ("00000002-v12", "../00000001-v12", "00000001", ""):
        with pytest.raises(UnknownVersionError, match=r"there is no checkpoint .*; there are 00000001-v12"):
            store.find(name)


MISMATCHES = {
    "application": ("other", "url"),
    "log_id": (OTHER_LOG, "--reset"),
    "fingerprint": ("huge", "another encoder is another application"),
    "dim": (8, "another encoder is another application"),
    "rule": (settings_of(AdagradConfig(learning_rate=0.3)), "`tidegate replay --rule adagrad --write-checkpoint`"),
}


@pytest.mark.parametrize("attribute", MISMATCHES)
def test_a_checkpoint_of_something_else_is_refused_with_the_remedy(store, attribute):
    wanted, remedy = MISMATCHES[attribute]
    save(store)
    manifest = save(store)
    said = [orjson.dumps(each, option=orjson.OPT_SORT_KEYS).decode() for each in (getattr(manifest, attribute), wanted)]
    for read in (lambda want: store.load(manifest, want), store.newest):
        with pytest.raises(CheckpointMismatchError) as caught:
            read(expected(**{attribute: wanted}))
        for part in (manifest.name, f"the {attribute} {said[0]}, expected {said[1]};", remedy):
            assert part in str(caught.value)


def test_the_other_rule_is_refused_and_any_log_will_do_if_none_is_expected(store):
    manifest = save(store)
    with pytest.raises(CheckpointMismatchError, match="set the rule back to adagrad"):
        store.newest(expected(rule=settings_of(SoftmaxMseConfig())))
    assert store.newest(expected(log_id=None))[1] == manifest


def test_a_mismatch_of_the_newest_is_not_passed_over(store):
    save(store)
    save(store, fingerprint="huge")
    with pytest.raises(CheckpointMismatchError, match="fingerprint"):
        store.newest(expected())


@pytest.mark.parametrize("attribute", MISMATCHES)
def test_history_may_hold_others(store, attribute, caplog):
    good = save(store, learned(version=5))
    other, value = learned(version=6), MISMATCHES[attribute][0]
    if attribute == "rule":
        other.identity = RuleIdentity("adagrad", value)
    save(store, other, **({} if attribute == "rule" else {attribute: value}))
    assert store.newest(expected(), at_most=6)[1] == good
    assert not caplog.records


def test_at_most_bounds_the_version(store):
    by_version = {version: save(store, learned(version=version)) for version in (3, 7, 9)}
    for at_most, version in ((100, 9), (9, 9), (8, 7), (7, 7), (3, 3)):
        state, manifest = store.newest(expected(), at_most=at_most)
        assert (state.version, manifest) == (version, by_version[version])
    assert store.newest(expected(), at_most=2) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("part", ["rows", "shared", "statistics"])
def test_a_state_that_is_not_finite_is_not_saved(store, part, value):
    state = learned()
    state.rule.shared["rate"] = torch.tensor(0.5)
    if part == "rows":
        state.rule.rows["weight"][2, 3] = value
    elif part == "shared":
        state.rule.shared["rate"] = torch.tensor(value)
    else:
        state.statistics.reward_sum[1] = value
    with pytest.raises(CheckpointError, match=rf"{part}\.\w+ holds numbers that are not finite"):
        save(store, state)
    assert store.list() == []


def test_a_view_that_is_not_finite_is_not_saved(store):
    state = learned()
    state.view = replace(VIEW, stake=(0.0, float("nan"), 1.0))
    with pytest.raises(CheckpointError, match=r"view\.stake holds numbers that are not finite"):
        save(store, state)


def test_rows_that_are_not_the_views_are_not_saved(store):
    state = learned()
    state.rule.rows["bias"] = torch.zeros(4)
    with pytest.raises(CheckpointError, match=r"rows\.bias has the shape \(4,\) for 3 uids"):
        save(store, state)


def test_set_aside_moves_the_checkpoints_of_other_logs_and_deletes_nothing(store, url):
    old, mine = save(store, log_id=OTHER_LOG), save(store)
    tensors = Files(url).read(old.name, old.tensors)
    assert store.set_aside(LOG) == [old.name]
    assert store.list() == [mine]
    (aside,) = Files(url).names() - {mine.name}
    assert aside.startswith("set-aside-")
    moved = CheckpointStore(f"{url}/{aside}", keep=1)
    assert moved.list() == [old]
    assert Files(f"{url}/{aside}").read(old.name, old.tensors) == tensors
    assert content(moved.load(old, expected(log_id=OTHER_LOG))) == content(learned())


def test_set_aside_moves_all_of_them_unreadable_ones_too(store, url):
    names = [save(store).name for _ in range(2)]
    Files(url).put(names[0], "manifest.json", b"{}")
    assert store.set_aside(None) == names[::-1]
    assert store.list() == []
    manifest = save(store)
    assert store.list() == [manifest]


def test_a_later_save_leaves_what_was_set_aside(store, url):
    save(store)
    store.set_aside(None)
    (aside,) = Files(url).names()
    save(store)
    assert aside in Files(url).names()
    assert len(CheckpointStore(f"{url}/{aside}", keep=1).list()) == 1


@pytest.mark.parametrize("config", RULES, ids=lambda config: config.name)
def test_a_replica_gets_the_weights_without_the_learner(store, config):
    state = learned(config)
    save(store, state)
    snapshot = load_snapshot(store, expected(rule=settings_of(config), log_id=None), build_rule)
    head = build_rule(config).head(state.rule)
    assert snapshot.order == (5, 12)
    assert (snapshot.view, snapshot.fingerprint, snapshot.dim) == (VIEW, "tiny", DIM)
    assert snapshot.weight.tobytes() == head.weight.contiguous().numpy().tobytes()
    assert snapshot.bias.tobytes() == head.bias.contiguous().numpy().tobytes()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://bucket/gate", r"s3://bucket/gate need the package s3fs; install it with `pip install s3fs`"),
        ("gs://bucket/gate", r"need the package gcsfs"),
        ("s3://key:secret@bucket/gate?token=secret", r"s3://\*\*\*@bucket/gate need the package s3fs"),
        ("nosuch://me:secret@place", r"nosuch://\*\*\*@place is neither a path nor a URL"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_its_password(url, message, monkeypatch):
    for package in ("s3fs", "gcsfs"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(CheckpointError, match=message) as caught:
        CheckpointStore(url, keep=1)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_urls_are_shown_without_passwords():
    assert shown("/data/a@b?c") == "/data/a@b?c"
    assert shown("simplecache::s3://k:a@b/c@bucket/x?sig=1") == "simplecache::s3://***@bucket/x"


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_a_place_that_cannot_be_used_is_a_checkpoint_error(tmp_path, prefix):
    (tmp_path / "file").write_bytes(b"")
    store = CheckpointStore(f"{prefix}{tmp_path}/file/checkpoints", keep=1)
    for attempt in (lambda: save(store), store.list, lambda: store.newest(expected()), lambda: store.set_aside(None)):
        with pytest.raises(CheckpointError, match="cannot list checkpoints in"):
            attempt()


def test_what_cannot_be_deleted_is_logged(store, caplog, monkeypatch):
    def refuse(name: str, last: str) -> None:
        raise CheckpointError("cannot delete: read-only")

    for _ in range(3):
        save(store)
    monkeypatch.setattr(store._folders, "remove", refuse)
    assert save(store).number == 4
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, "checkpoint_not_removed name=00000001-v12 reason=cannot delete: read-only")
    ]
