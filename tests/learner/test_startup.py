"""From settings to a learner: with an empty log, with one that has begun, and while the network cannot be read."""

from dataclasses import replace

import pytest

from gating.policies import Greedy
from learner.checkpoint import CheckpointStore
from learner.config import AdagradConfig, BittensorChain, LearnerConfig, RosterChain
from learner.errors import (
    ChainUnavailableError,
    ConfigMismatchError,
    EncoderMismatchError,
    LogUnavailableError,
    RosterError,
    RuleMismatchError,
)
from learner.housekeeping import Housekeeper
from learner.memory_log import MemoryEventLog
from learner.startup import LearnerArgs, check_terms, start_learner
from learner.storage import Storage

from .builders import DIM, EPOCH, FINGERPRINT, Clock, decide, decision, learn_all, reward, state_of
from .flaky_log import FlakyLog

NOW_MS = 1_700_000_000_000


class Place:
    """A roster, a log, and a folder for checkpoints."""

    def __init__(self, folder, monkeypatch):
        self.now_ms = NOW_MS
        monkeypatch.setattr("learner.roster.time.time_ns", lambda: self.now_ms * 1_000_000)
        monkeypatch.setattr("learner.startup._FIRST_VIEW_PATIENCE_S", 0.0)
        monkeypatch.setattr("learner.startup._NEXT_VIEW_PATIENCE_S", 0.0)
        self.roster = folder / "roster.yaml"
        self.write("a", "b", "c")
        self.log = FlakyLog(MemoryEventLog(started_at_ms=EPOCH))
        self.store = CheckpointStore(str(folder / "checkpoints"), keep=3)
        self.chain = RosterChain(roster=str(self.roster), netuid=7)
        self.crashes = []

    def write(self, *names):
        self.roster.write_text("experts: [" + ", ".join(f"{{name: {name}}}" for name in names) + "]")

    def args(self, **settings):
        return LearnerArgs("app", self.chain, LearnerConfig(**settings), DIM, FINGERPRINT)

    def start(self, **settings):
        storage = Storage(self.log, self.store)
        return start_learner(self.args(**settings), storage, Clock(), on_crash=lambda: self.crashes.append("crash"))

    def save(self, learner):
        keeper = Housekeeper(learner, self.store, application="app", clock=Clock(), on_crash=lambda: None)
        return keeper.save()


@pytest.fixture
def place(tmp_path, monkeypatch):
    return Place(tmp_path, monkeypatch)


def earn(learner):
    decide(learner, decision("i-1", (0, 1), view=learner.view))
    learner.add_rewards([reward("i-1", {0: 1.0, 1: 0.0})])
    learn_all(learner)


def test_a_log_begins_with_the_network_and_the_seed(place):
    learner, follower = place.start(seed=5)
    assert learner.view.hotkeys == ("a", "b", "c")
    assert (learner.view.netuid, learner.view.block) == (7, NOW_MS)
    assert (place.log.genesis.view, place.log.genesis.seed) == (learner.view, 5)
    assert (learner.version, learner.has_work, learner.saved_version) == (0, False, -1)
    assert (learner.dim, learner.fingerprint) == (DIM, FINGERPRINT)
    assert follower.describe()["block"] == NOW_MS


def test_a_restart_goes_on_with_the_log_and_follows_the_network_of_now(place):
    learner, _ = place.start()
    earn(learner)
    place.write("a", "x", "c")
    place.now_ms += 5
    again, follower = place.start()
    assert again.view.hotkeys == ("a", "x", "c")
    assert again.snapshot().view.hotkeys == ("a", "b", "c")
    learn_all(again)
    assert again.version == 2
    assert state_of(again).statistics.rewards.tolist() == [1, 0, 0]
    assert again.add_rewards([reward("i-1", {0: 1.0})]).duplicates == 1
    assert follower.describe()["block"] == NOW_MS + 5


def test_a_restart_from_a_checkpoint_says_so(place):
    learner, _ = place.start()
    earn(learner)
    place.save(learner)
    again, _ = place.start()
    assert again.saved_version == 1
    learn_all(again)
    learn_all(learner)
    assert again.log.last_seq == again.version == 2
    assert state_of(again).digest() == state_of(learner).digest()


@pytest.mark.parametrize("saved", [False, True])
def test_a_clock_that_stepped_back_does_not_make_the_roster_stale(place, saved):
    learner, _ = place.start()
    earn(learner)
    if saved:
        place.save(learner)
    place.now_ms -= 3_600_000
    place.write("a", "x", "c")
    again, _ = place.start()
    assert again.view.hotkeys == ("a", "x", "c")
    assert again.view.block == NOW_MS + 1


def test_a_roster_that_is_gone_at_a_restart_leaves_the_network_as_it_is(place, caplog):
    learner, _ = place.start()
    earn(learner)
    place.roster.unlink()
    again, follower = place.start()
    assert again.view == learner.view
    assert again.version == 1
    assert "started_with_logged_view" in caplog.text
    place.write("a", "y")
    follower._resync = again.resync
    assert follower.refresh("ops").n == 2


def test_without_a_network_nothing_begins(place):
    place.roster.unlink()
    with pytest.raises(RosterError):
        place.start()
    assert place.log.genesis is None
    place.write("a")
    learner, _ = place.start()
    assert learner.view.n == 1


class Chain:
    """A chain that answers with what it is told to."""

    def __init__(self, view, error=None):
        self.view, self.error = view, error

    def fetch_view(self):
        if self.error is not None:
            raise self.error
        return self.view

    def fetch_block(self):
        return self.view.block

    def describe(self):
        return {"source": "bittensor"}

    def disconnect(self):
        pass

    def close(self):
        pass


def test_a_chain_that_is_down_or_lags_at_a_restart_leaves_the_logged_view_in_use(place, monkeypatch, caplog):
    learner, _ = place.start()
    earn(learner)
    logged = learner.view
    place.chain = BittensorChain(source="bittensor", netuid=7)
    chain = Chain(logged, ChainUnavailableError("no node answers"))
    monkeypatch.setattr("learner.startup.build_source", lambda _config, after_block: chain)
    again, follower = place.start()
    assert (again.view, again.version) == (logged, 1)
    assert follower.describe()["last_cause"] == "ChainUnavailableError"
    assert "no node answers" in caplog.text
    chain.view, chain.error = logged.from_hotkeys("xyz", netuid=7, block=logged.block - 1), None
    again, _ = place.start()
    assert again.view == logged
    assert "is older than that of block" in caplog.text
    chain.view = logged.from_hotkeys("xyz", netuid=7, block=logged.block + 1)
    again, _ = place.start()
    assert again.view == chain.view


def test_a_log_that_cannot_be_written_is_no_start(place):
    learner, _ = place.start()
    earn(learner)
    place.write("a", "x")
    place.log.fail_next = "before"
    with pytest.raises(LogUnavailableError):
        place.start()


def test_another_rule_than_the_checkpoints_is_refused(place):
    learner, _ = place.start()
    earn(learner)
    place.save(learner)
    with pytest.raises(RuleMismatchError, match="write-checkpoint"):
        place.start(rule=AdagradConfig(learning_rate=0.7))


def test_a_log_in_memory_has_no_checkpoints(place):
    place.store = None
    learner, _ = place.start()
    earn(learner)
    again, _ = place.start()
    assert again.saved_version == -1
    assert again.version == 1
    assert state_of(again).digest() == state_of(learner).digest()


def test_what_a_hotkey_swap_does_is_as_configured(place):
    learner, _ = place.start()
    assert learner._on_hotkey_swap == "keep"
    place.chain = RosterChain(roster=str(place.roster), on_hotkey_swap="reset")
    again, _ = place.start()
    assert again._on_hotkey_swap == "reset"


def test_replicas_may_differ_from_the_learner_in_settings_but_not_in_encoder_log_or_network(place):
    args = place.args()
    check_terms(args, place.args(publish_interval_ms=99, rule=AdagradConfig()).terms)
    check_terms(args, replace(args, chain=RosterChain(roster="elsewhere.yaml", netuid=7)).terms)
    with pytest.raises(EncoderMismatchError, match="deploy another encoder as another application"):
        check_terms(args, replace(args, fingerprint="other").terms)
    with pytest.raises(ConfigMismatchError, match=r"has the log_url .* `tidegate down`"):
        check_terms(args, place.args(log={"url": "memory"}).terms)
    for chain in (RosterChain(netuid=8), BittensorChain(source="bittensor", netuid=7)):
        with pytest.raises(ConfigMismatchError, match="has the network 'roster 7'"):
            check_terms(args, replace(args, chain=chain).terms)


def test_a_digest_tells_learners_of_other_settings_or_other_code_apart(place, monkeypatch):
    args = place.args()
    assert args.digest() == place.args().digest()
    others = [
        place.args(publish_interval_ms=99),
        replace(args, chain=RosterChain(netuid=8)),
        replace(args, policy=Greedy()),
        replace(args, fingerprint="other"),
    ]
    assert len({args.digest(), *(other.digest() for other in others)}) == 5
    before = args.digest()
    monkeypatch.setattr("learner.startup.code_digest", lambda: "other code")
    assert args.digest() != before
