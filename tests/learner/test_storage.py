"""What is found out about the log and the checkpoints before anything starts."""

import sqlite3

import pytest

from learner.checkpoint import CheckpointStore
from learner.config import AdagradConfig, LearnerConfig, SoftmaxMseConfig, settings_of
from learner.errors import (
    CheckpointMismatchError,
    LearnerError,
    LogCorruptError,
    LogSchemaError,
    UnknownVersionError,
    WrongLogError,
)
from learner.log_check import is_new
from learner.sql import open_sql_log
from learner.state import RuleIdentity
from learner.storage import check_storage

from .builders import DIM, FINGERPRINT, build_learner, learn_all, message_reward, save, state_of


class Place:
    """Where an application's log and checkpoints are."""

    def __init__(self, folder):
        self.file = folder / "events.db"
        self.store = CheckpointStore(str(folder / "checkpoints"), keep=3)
        self.settings = {"log": {"url": f"sqlite:///{self.file}"}, "checkpoints": {"url": f"{folder}/checkpoints"}}

    def open_log(self, fingerprint=FINGERPRINT):
        return open_sql_log(
            self.settings["log"]["url"],
            application="app",
            fingerprint=fingerprint,
            dim=DIM,
            holder="first",
            lease_s=5.0,
            patience_s=0.0,
        )

    def run(self, *names, rule=None, is_saved=True):
        """A learner that learns those rewards, saves and ends."""
        log = self.open_log()
        learner = build_learner(log=log, store=self.store, rule_config=rule)
        for name in names:
            learner.add_rewards([message_reward(name, {0: 1.0})])
            learn_all(learner)
        if is_saved:
            save(learner, self.store)
        log.close()

    def files(self):
        """All that is there, but for what SQLite keeps beside a database that is open."""
        parts = [path for path in self.file.parent.rglob("*") if path.is_file()]
        return {path: path.read_bytes() for path in parts if path.name not in ("events.db-wal", "events.db-shm")}

    def check(self, rule=None):
        before = self.files()
        try:
            check_storage(LearnerConfig(rule=rule or SoftmaxMseConfig(), **self.settings), "app")
        finally:
            assert self.files() == before

    def sql(self, statement):
        with sqlite3.connect(self.file) as connection:
            connection.execute(statement)
        connection.close()


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def test_what_a_learner_can_go_on_from_passes(place):
    place.check()
    place.open_log().close()
    place.check()
    place.run("r-1", is_saved=False)
    place.check()
    place.run("r-2")
    place.check()
    place.run("r-3", is_saved=False)
    place.check()


def test_a_log_in_memory_has_nothing_to_check(place):
    place.run("r-1")
    place.settings["log"]["url"] = "memory"
    place.check(AdagradConfig())


def test_checkpoints_of_another_rule_or_other_settings_are_refused_with_the_remedy(place):
    place.run("r-1")
    for rule in (AdagradConfig(), SoftmaxMseConfig(momentum=0.5)):
        with pytest.raises(CheckpointMismatchError, match=f"`tidegate replay --rule {rule.name} --write-checkpoint`"):
            place.check(rule)


def test_the_newest_checkpoint_that_is_whole_counts(place):
    place.run("r-1")
    log = place.open_log()
    learner = build_learner(log=log)
    state_of(learner).identity = RuleIdentity("adagrad", settings_of(AdagradConfig()))
    newest = save(learner, place.store)
    log.close()
    with pytest.raises(CheckpointMismatchError):
        place.check()
    place.check(AdagradConfig())
    (place.file.parent / "checkpoints" / newest.name / newest.tensors).write_bytes(b"cut")
    place.check()
    with pytest.raises(CheckpointMismatchError):
        place.check(AdagradConfig())


def test_checkpoints_without_their_log_are_refused_and_the_reset_is_named(place):
    place.run("r-1")
    log_id = place.store.list()[0].log_id
    place.file.unlink()
    with pytest.raises(
        WrongLogError, match=f"go with log {log_id}, and there is no log at .*; bring it back, .* --reset"
    ):
        place.check()
    place.store.set_aside(None)
    place.check()


def test_checkpoints_of_another_log_are_refused(place):
    place.run("r-1")
    place.file.unlink()
    place.open_log().close()
    with pytest.raises(CheckpointMismatchError, match="--reset"):
        place.check()
    place.store.set_aside(None)
    place.run("r-1", is_saved=False)
    place.check()


def test_an_older_copy_of_the_log_is_refused(place):
    place.run("r-1", is_saved=False)
    older = place.file.read_bytes()
    place.run("r-2")
    place.file.write_bytes(older)
    with pytest.raises(WrongLogError, match="learned up to event 2, the log ends at 1"):
        place.check()


def test_a_log_whose_beginning_is_gone_needs_a_checkpoint(place):
    place.run("r-1", "r-2")
    place.sql("DELETE FROM events WHERE seq = 1")
    place.check()
    place.store.set_aside(None)
    with pytest.raises(UnknownVersionError, match="begins at event 2"):
        place.check()


def test_a_damaged_or_newer_database_is_refused(place):
    place.run("r-1")
    place.sql("UPDATE tidegate_schema SET version_num = '9999'")
    with pytest.raises(LogSchemaError, match="upgrade Tidegate"):
        place.check()
    place.file.write_bytes(b"no database at all, but long enough to be looked at" * 100)
    with pytest.raises(LogCorruptError, match="no database"):
        place.check()


def test_an_older_database_is_left_to_the_learner(place, monkeypatch):
    place.run("r-1")
    monkeypatch.setattr("learner.sql.log.newest_revision", lambda: "9998")
    place.check(AdagradConfig())


def test_a_learner_refuses_what_the_check_refuses(place):
    place.run("r-1")
    with pytest.raises(LearnerError) as checked:
        place.check(AdagradConfig())
    log = place.open_log()
    with pytest.raises(LearnerError) as started:
        build_learner(log=log, store=place.store, rule_config=AdagradConfig())
    log.close()
    for refusal in (checked, started):
        assert "`tidegate replay --rule adagrad --write-checkpoint`" in str(refusal.value)


def test_an_application_is_new_until_it_has_a_log_or_checkpoints(place):
    config = LearnerConfig.model_validate(place.settings)
    assert is_new(config, "app")
    assert place.files() == {}
    place.run("one")
    assert not is_new(config, "app")
    place.file.unlink()
    assert not is_new(config, "app"), "there are checkpoints"


@pytest.mark.parametrize(("url", "is_it"), [("memory", True), ("postgresql://127.0.0.1:1/gate", False)])
def test_whether_a_log_elsewhere_is_new_is_for_the_check_to_say(url, is_it, tmp_path):
    settings = {"log": {"url": url}, "checkpoints": {"url": str(tmp_path)}}
    assert is_new(LearnerConfig.model_validate(settings), "app") == is_it
