"""Weights from the log without a service: a real log in SQLite that a learner in this process has written."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from deployments.cli import app as command_line
from deployments.replay import Replay, plan_replay, replay_with_progress, run_replay
from deployments.serve_config import IMPORT_PATH, ServeConfigError
from gating import MetagraphView
from learner.checkpoint import CheckpointStore, Manifest
from learner.config import AdagradConfig, LearnerConfig, SoftmaxMseConfig, settings_of
from learner.core import Learner
from learner.errors import FencedError, LeaseHeldError, NoLogError, UnknownVersionError, WrongLogError
from learner.events import Action
from learner.sql import SqlEventLog, open_sql_log
from learner.state import Held
from tests.learner.builders import (
    DIM,
    FINGERPRINT,
    START,
    act,
    build_learner,
    learn_all,
    message_reward,
    roll_back,
    save,
    state_of,
)

RULE = SoftmaxMseConfig(learning_rate=0.5)


class Place:
    """A Serve config, and the log and the checkpoints that it leads to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "config.yaml"
        self.write_config(app={"rule": {"name": "softmax_mse", "learning_rate": 0.5}})
        self.file = folder / "tidegate-data" / "app" / "events.db"
        self.store = CheckpointStore(str(folder / "tidegate-data" / "app" / "checkpoints"), keep=9)

    def write_config(self, **learners: dict[str, Any]) -> None:
        applications = [
            {"name": name, "route_prefix": f"/{name}", "import_path": IMPORT_PATH, "args": {"learner": learner}}
            for name, learner in learners.items()
        ]
        self.config.write_text(yaml.safe_dump({"applications": applications}), encoding="utf-8")

    def open_log(self) -> SqlEventLog:
        return open_sql_log(
            f"sqlite:///{self.file}",
            application="app",
            fingerprint=FINGERPRINT,
            dim=DIM,
            holder="the learner",
            lease_s=60.0,
            patience_s=0.0,
        )

    def plan(self, rule: str | None = None, start: str | None = None, upto: int | None = None) -> Replay:
        return plan_replay(self.config, None, rule, start, upto)

    def replay(self, rule: str | None = None, start: str | None = None, upto: int | None = None) -> dict[str, Any]:
        return run(self.plan(rule, start, upto))


def run(plan: Replay, *, write_checkpoint: bool = False) -> dict[str, Any]:
    return run_replay(plan, write_checkpoint=write_checkpoint, on_start=lambda *_: None, on_batch=lambda _: None)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def learner(place: Place) -> Iterator[Learner]:
    """One that has learned, was frozen, has followed the network and was rolled back."""
    log = place.open_log()
    learner = build_learner(log=log, rule_config=RULE, store=place.store)
    earn(learner, "r-1", "r-2")
    act(learner, Action.FREEZE)
    earn(learner, "r-3")
    act(learner, Action.THAW)
    learner.resync(MetagraphView.from_hotkeys(["a", "b", "new", "d", "e", "f"], block=2))
    earn(learner, "r-4")
    roll_back(learner, 2)
    earn(learner, "r-5")
    yield learner
    log.close()


def earn(learner: Learner, *names: str) -> None:
    for name in names:
        learner.add_rewards([message_reward(name, {0: 1.0, 2: 0.25, len(name) % 3 + 3: 0.0})])
        learn_all(learner)


def digest(learner: Learner) -> str:
    return state_of(learner).digest()


def sqlite_rows(place: Place, table: str) -> Iterator[tuple[Any, ...]]:
    with closing(sqlite3.connect(place.file)) as connection:
        yield from connection.execute(f"SELECT * FROM {table}").fetchall()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 20.0
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come about"
        threading.Event().wait(0.01)


def saved_then_learned(place: Place, learner: Learner) -> Manifest:
    """A checkpoint of what the learner has, after which it learns more."""
    manifest = save(learner, place.store)
    earn(learner, "r-6", "r-7")
    return manifest


def test_the_digest_is_the_live_learners_while_that_writes_the_log(place: Place, learner: Learner) -> None:
    before = place.file.read_bytes()
    result = place.replay()
    assert result["digest"] == digest(learner)
    assert (result["version"], result["first"], result["held"]) == (learner.version, 0, len(state_of(learner).held))
    assert (result["application"], result["log_id"]) == ("app", learner.log.id)
    assert result["rule"] == settings_of(RULE)
    assert place.file.read_bytes() == before
    assert place.store.list() == []


def test_the_configured_rule_keeps_its_settings_and_another_has_its_own(place: Place, learner: Learner) -> None:
    assert place.replay("softmax_mse")["digest"] == digest(learner)
    other = place.replay("adagrad")
    assert other["rule"] == settings_of(AdagradConfig())
    assert other["version"] == learner.version
    assert other["digest"] != digest(learner)
    assert place.replay("adagrad")["digest"] == other["digest"]


def test_a_replay_ends_where_it_is_told_to(place: Place, learner: Learner) -> None:
    manifest = saved_then_learned(place, learner)
    result = place.replay(upto=manifest.version)
    assert (result["version"], result["digest"]) == (manifest.version, manifest.digest)
    assert place.replay(upto=10**9)["digest"] == digest(learner)
    assert place.replay(upto=0)["version"] == 0


def test_from_a_checkpoint_of_the_same_rule_a_replay_goes_on(place: Place, learner: Learner) -> None:
    manifest = saved_then_learned(place, learner)
    result = place.replay(start=manifest.name)
    assert (result["first"], result["from"]) == (manifest.version, manifest.name)
    assert result["digest"] == digest(learner)


def test_from_a_checkpoint_a_replay_of_a_pruned_log_follows_rollbacks_to_after_it(
    place: Place, learner: Learner
) -> None:
    manifest = saved_then_learned(place, learner)
    good = learner.version
    earn(learner, "r-8")
    while learner.log.prune(upto=manifest.version, before_s=1e18, keep=sorted(learner.held_places())):
        pass
    assert learner.log.first_seq() > 1
    roll_back(learner, good)
    earn(learner, "r-9")
    result = place.replay(start=manifest.name)
    assert (result["first"], result["digest"]) == (manifest.version, digest(learner))
    with pytest.raises(UnknownVersionError, match="the log begins at event"):
        place.replay()


def test_from_a_checkpoint_of_another_rule_a_replay_starts_afresh_in_its_network(
    place: Place, learner: Learner
) -> None:
    manifest = saved_then_learned(place, learner)
    result = run(place.plan("adagrad", manifest.name), write_checkpoint=False)
    assert (result["first"], result["version"]) == (manifest.version, learner.version)
    assert result["digest"] != place.replay("adagrad")["digest"]
    learner.log.close()
    run(place.plan("adagrad", manifest.name, manifest.version), write_checkpoint=True)
    afresh = place.store.list()[0]
    assert afresh.view.hotkeys == ("a", "b", "new", "d", "e", "f")
    assert (afresh.version, afresh.rule["name"], afresh.held) == (manifest.version, "adagrad", manifest.held)
    assert START.hotkeys != afresh.view.hotkeys


def test_a_checkpoint_that_was_written_is_what_the_learner_starts_from(place: Place, learner: Learner) -> None:
    saved_then_learned(place, learner)
    learner.log.close()
    result = run(place.plan("adagrad"), write_checkpoint=True)
    manifest = place.store.list()[0]
    assert (manifest.name, manifest.digest, manifest.version) == (
        result["checkpoint"],
        result["digest"],
        result["version"],
    )
    assert (manifest.application, manifest.log_id, manifest.rule) == (
        "app",
        result["log_id"],
        settings_of(AdagradConfig()),
    )
    log = place.open_log()
    restarted = build_learner(log=log, rule_config=AdagradConfig(), store=place.store)
    assert restarted.saved_version == manifest.version
    assert digest(restarted) == result["digest"]
    assert log.epoch == manifest.epoch + 1
    log.close()


def test_a_replay_of_what_has_served_knows_which_rule_was_put_in_its_place(place: Place, learner: Learner) -> None:
    saved_then_learned(place, learner)
    learner.log.close()
    result = run(place.plan("adagrad"), write_checkpoint=True)
    log = place.open_log()
    again = build_learner(log=log, rule_config=AdagradConfig(), store=place.store)
    assert again.version == result["version"]
    earn(again, "r-8")
    log.close()
    replayed = place.replay()
    assert replayed["digest"] == digest(again)
    assert (replayed["rule"], replayed["version"]) == (settings_of(AdagradConfig()), again.version)
    log = place.open_log()
    without_checkpoints = build_learner(log=log, rule_config=AdagradConfig())
    log.close()
    assert state_of(without_checkpoints).served_since == result["version"]
    with pytest.raises(UnknownVersionError, match="serves since version"):
        again.stage_rollback(result["version"] - 1, "ops")


def test_what_was_rebuilt_from_a_checkpoint_is_not_told_again(place: Place, learner: Learner) -> None:
    manifest = saved_then_learned(place, learner)
    learner.log.close()
    written = run(place.plan("adagrad", manifest.name), write_checkpoint=True)
    with pytest.raises(UnknownVersionError, match=f"rebuilt from checkpoint {manifest.name}"):
        place.replay()
    assert place.replay(start=written["checkpoint"])["digest"] == written["digest"]


@pytest.mark.parametrize("begins_at_checkpoint", [False, True], ids=["to", "from"])
def test_weights_that_could_not_follow_a_later_rollback_are_not_written(
    place: Place, learner: Learner, begins_at_checkpoint: bool
) -> None:
    good = learner.version
    earn(learner, "r-6", "r-7")
    manifest = save(learner, place.store)
    earn(learner, "r-8")
    rollback = roll_back(learner, good)
    learner.log.close()
    before = list(sqlite_rows(place, "events")), [kept.name for kept in place.store.list()]
    if begins_at_checkpoint:
        plan, message = place.plan("adagrad", start=manifest.name), f"rebuilt from checkpoint {manifest.name} cannot"
    else:
        plan, message = place.plan("adagrad", upto=manifest.version), f"up to version {manifest.version} cannot"
    with pytest.raises(UnknownVersionError, match=f"event {rollback} rolls back to version {good}, .* {message}"):
        run(plan, write_checkpoint=True)
    assert (list(sqlite_rows(place, "events")), [kept.name for kept in place.store.list()]) == before
    assert run(place.plan("adagrad", upto=good), write_checkpoint=True)["version"] == good
    log = place.open_log()
    again = build_learner(log=log, rule_config=AdagradConfig(), store=place.store)
    log.close()
    assert [event for event in state_of(again).held if event > good] == [good + 1, good + 2, good + 3]


def test_a_checkpoint_of_the_same_rule_follows_a_rollback_to_before_it(place: Place, learner: Learner) -> None:
    good = learner.version
    earn(learner, "r-6")
    manifest = save(learner, place.store)
    roll_back(learner, good)
    learner.log.close()
    assert state_of(learner).held[good + 1] is Held.ROLLED_BACK
    assert run(place.plan("softmax_mse", manifest.name), write_checkpoint=True)["digest"] == digest(learner)


def test_nothing_is_written_while_a_learner_has_the_log(place: Place, learner: Learner) -> None:
    manifest = saved_then_learned(place, learner)
    with pytest.raises(LeaseHeldError, match="'the learner'"):
        run(place.plan("adagrad"), write_checkpoint=True)
    assert [kept.name for kept in place.store.list()] == [manifest.name]
    learner.log.renew()


def test_the_claim_on_the_log_is_renewed_for_as_long_as_the_replay_takes(place: Place, learner: Learner) -> None:
    learner.log.close()
    place.write_config(app={"rule": RULE.model_dump(), "log": {"lease_s": 0.5}})
    seen: list[int] = []

    def renewals() -> int:
        return next(sqlite_rows(place, "writer"))[3]

    def linger(_version: int) -> None:
        """Once for a moment that outlasts several claims."""
        if not seen:
            wait_for(lambda: renewals() >= 5)
            seen.append(renewals())
            with pytest.raises(LeaseHeldError, match="tidegate-replay"):
                place.open_log()

    run_replay(place.plan(), write_checkpoint=True, on_start=lambda *_: None, on_batch=linger)
    assert seen
    assert len(place.store.list()) == 1


def test_nothing_is_written_once_another_has_taken_the_log(place: Place, learner: Learner) -> None:
    learner.log.close()

    def take_over(_version: int) -> None:
        with closing(sqlite3.connect(place.file, isolation_level=None)) as connection:
            connection.execute("UPDATE writer SET epoch = epoch + 1")

    with pytest.raises(FencedError):
        run_replay(place.plan(), write_checkpoint=True, on_start=lambda *_: None, on_batch=take_over)
    assert place.store.list() == []


def test_the_log_is_free_again_after_a_replay_that_failed(place: Place, learner: Learner) -> None:
    learner.log.close()
    with pytest.raises(UnknownVersionError, match="no checkpoint 'none'"):
        run(place.plan(start="none"), write_checkpoint=True)
    place.open_log().close()


def test_a_checkpoint_of_another_log_is_no_place_to_begin(place: Place, learner: Learner) -> None:
    manifest = save(learner, place.store)
    learner.log.close()
    for path in place.file.parent.glob("events.db*"):
        path.unlink()
    other = place.open_log()
    build_learner(log=other, rule_config=RULE)
    with pytest.raises(WrongLogError, match=f"belongs to log {manifest.log_id}, this is {other.id}"):
        place.replay(start=manifest.name)
    other.close()


def test_progress_is_told_in_events(place: Place, learner: Learner) -> None:
    manifest = saved_then_learned(place, learner)
    told: list[tuple[int, ...]] = []
    run_replay(
        place.plan(start=manifest.name),
        write_checkpoint=False,
        on_start=lambda first, last: told.append((first, last)),
        on_batch=lambda version: told.append((version,)),
    )
    last = learner.version
    assert told == [(manifest.version, last), (last - 1,), (last,)]
    shown = replay_with_progress(place.plan(), Console(file=StringIO()), write_checkpoint=False)
    assert shown["digest"] == digest(learner)


def test_the_command_prints_json_or_a_table(place: Place, learner: Learner) -> None:
    options = ["replay", "--config", str(place.config)]
    printed = CliRunner().invoke(command_line, [*options, "--json"])
    assert printed.exit_code == 0, printed.output
    assert json.loads(printed.stdout)["digest"] == digest(learner)
    assert digest(learner) in CliRunner().invoke(command_line, options).stdout
    refused = CliRunner().invoke(command_line, [*options, "--rule", "none"])
    assert (refused.exit_code, "there is no rule 'none'" in refused.output) == (1, True)


def test_a_log_that_is_not_there_is_an_error_and_is_not_made(place: Place) -> None:
    for write_checkpoint in (False, True):
        with pytest.raises(NoLogError, match="there is no log at"):
            run(place.plan(), write_checkpoint=write_checkpoint)
    assert not place.file.exists()


def several(place: Place) -> None:
    place.write_config(app={}, other={})


def none_of_ours(place: Place) -> None:
    place.config.write_text("applications: [{name: app, route_prefix: /, import_path: 'else:where'}]", encoding="utf-8")


def in_memory(place: Place) -> None:
    place.write_config(app={"log": {"url": "memory"}})


@pytest.mark.parametrize(
    ("prepare", "application", "rule", "message"),
    [
        (several, None, None, r"has the applications \['app', 'other'\]; name one with --app"),
        (several, "third", None, r"has the applications \['app', 'other'\]"),
        (none_of_ours, None, None, r"has the applications \[\]"),
        (in_memory, None, None, "app keeps its log in memory"),
        (several, "other", "sgd", "there is no rule 'sgd'"),
    ],
)
def test_what_cannot_be_replayed_is_said(
    place: Place, prepare: Callable[[Place], None], application: str | None, rule: str | None, message: str
) -> None:
    prepare(place)
    with pytest.raises(ServeConfigError, match=message):
        plan_replay(place.config, application, rule, None, None)


def test_a_plan_has_the_paths_beside_the_config(place: Place) -> None:
    several(place)
    plan = plan_replay(place.config, "other", None, "00000001-v3", 7)
    assert (plan.application, plan.start, plan.upto) == ("other", "00000001-v3", 7)
    assert plan.config.log.url == f"sqlite:///{place.folder}/tidegate-data/{{app}}/events.db"
    assert plan.config.checkpoints.url == f"{place.folder}/tidegate-data/{{app}}/checkpoints"
    assert plan.rule == LearnerConfig().rule
    assert plan.as_logged
    assert not plan_replay(place.config, "other", "adagrad", None, None).as_logged
