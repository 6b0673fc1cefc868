"""Following a network: against sources of the test's own, and against a node through the real SDK."""

import threading
from dataclasses import replace

import pytest

from gating.metagraph import MetagraphView
from learner.chain import build_source
from learner.config import BittensorChain, RosterChain
from learner.core import Learner
from learner.errors import ChainUnavailableError, RosterError, StaleViewError, SubnetNotFoundError
from learner.follower import ChainFollower, build_schedule
from learner.schedule import BLOCK_S, FollowSchedule

from .builders import build_learner

INTERVAL_S = 100.0


class Clock:
    """Time that passes only when somebody sleeps or the test says so."""

    def __init__(self):
        self.now_s = 1000.0
        self.slept = []

    def __call__(self):
        return self.now_s

    def sleep(self, delay_s):
        self.slept.append(delay_s)
        self.now_s += delay_s


class Source:
    """A network whose answers the test gives: a view, or an error."""

    def __init__(self, view):
        self.answer = view
        self.block = view.block
        self.reads = 0
        self.disconnects = 0
        self.closed = False

    def fetch_view(self):
        self.reads += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def fetch_block(self):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.block

    def describe(self):
        return {"source": "test"}

    def disconnect(self):
        self.disconnects += 1

    def close(self):
        self.closed = True


VIEW = MetagraphView.from_hotkeys(["a", "b", "c"], netuid=1, block=100)
AWAY = ChainUnavailableError("ws://node: no answer; check it")


class Following:
    """A follower, its learner, its source and its clock. Nothing runs by itself."""

    def __init__(self, source=None, schedule=None, view=VIEW):
        self.clock = Clock()
        self.source = source or Source(view)
        schedule = schedule or FollowSchedule(interval_s=INTERVAL_S, chance=lambda: 1.0)
        self.crashes = []
        self.follower = ChainFollower(
            self.source,
            schedule,
            on_crash=lambda: self.crashes.append("crashed"),
            clock=self.clock,
            sleep=self.clock.sleep,
        )
        self.learner: Learner = build_learner(view=self.follower.first_view(30.0))
        self.follower._resync = self.learner.resync

    @property
    def status(self):
        return self.follower.describe()

    def pass_s(self, seconds):
        """Let time pass and do what is due then."""
        self.clock.now_s += seconds
        return self.follower.step()


def test_the_network_is_read_again_after_the_interval():
    following = Following()
    assert following.pass_s(INTERVAL_S - 1) == 1
    assert following.source.reads == 1
    following.source.answer = replace(VIEW, block=110, hotkeys=("a", "new", "c"))
    assert following.pass_s(1) == INTERVAL_S
    assert following.learner.view.hotkeys == ("a", "new", "c")
    assert following.status["block"] == 110


def test_the_block_is_looked_at_and_the_network_read_when_it_is_far_enough():
    following = Following(schedule=FollowSchedule(interval_blocks=2, chance=lambda: 1.0))
    following.source.block = 101
    assert following.pass_s(BLOCK_S) == BLOCK_S
    assert following.source.reads == 1
    following.source.block, following.source.answer = 102, replace(VIEW, block=102)
    assert following.pass_s(BLOCK_S) == 0
    following.pass_s(0)
    assert (following.source.reads, following.learner.view.block) == (2, 102)


def test_the_last_good_view_stays_while_the_network_cannot_be_read_and_the_state_says_why_and_since_when():
    following = Following()
    following.source.answer = AWAY
    delays = [following.pass_s(INTERVAL_S)]
    for _ in range(7):
        delays.append(following.pass_s(delays[-1]))
    assert delays == [1, 2, 4, 8, 16, 32, 60, 60]
    assert following.learner.view == VIEW
    assert following.status == {
        "source": "test",
        "block": 100,
        "block_age_s": INTERVAL_S + sum(delays[:-1]),
        "last_error": str(AWAY),
        "last_cause": "ChainUnavailableError",
        "failures": 8,
        "stale_views": 0,
    }
    following.source.answer = replace(VIEW, block=200)
    assert following.pass_s(60) == INTERVAL_S
    recovered = following.status
    assert (recovered["block"], recovered["block_age_s"], recovered["last_error"]) == (200, 0.0, None)
    assert recovered["failures"] == 8


def test_a_view_older_than_the_last_is_refused_counted_and_left_for_another_node():
    following = Following()
    following.source.answer = replace(VIEW, block=99, hotkeys=("x", "y", "z"))
    assert following.pass_s(INTERVAL_S) == 1
    assert following.learner.view == VIEW
    assert following.source.disconnects == 1
    status = following.status
    assert (status["stale_views"], status["failures"], status["block"]) == (1, 1, 100)
    assert "block 99 is older than that of block 100" in status["last_error"]


def test_a_chain_that_went_back_is_noticed_when_it_is_looked_at():
    following = Following(schedule=FollowSchedule(interval_blocks=2, chance=lambda: 1.0))
    following.source.block = 99
    following.pass_s(BLOCK_S)
    assert following.status["stale_views"] == 1
    assert following.status["last_error"] == "the chain is at block 99, before block 100 in use"


def test_refreshing_reads_at_once_and_says_what_changed():
    following = Following()
    following.source.answer = replace(VIEW, block=101, hotkeys=("a", "new", "c"))
    summary = following.follower.refresh("ops")
    assert (summary.block, summary.reset) == (101, (1,))
    assert following.pass_s(INTERVAL_S - 1) == 1
    assert following.source.reads == 2


@pytest.mark.parametrize("error", [AWAY, RosterError("line 3 is wrong")])
def test_refreshing_in_vain_raises_what_is_wrong_and_changes_nothing(error):
    following = Following()
    following.source.answer = error
    with pytest.raises(type(error), match=str(error)):
        following.follower.refresh("ops")
    following.source.answer = replace(VIEW, block=1)
    with pytest.raises(StaleViewError):
        following.follower.refresh("ops")
    assert following.learner.view == VIEW
    assert following.status["failures"] == 2


def test_the_first_view_is_waited_for_with_growing_patience_and_then_given_up():
    clock, source = Clock(), Source(VIEW)
    source.answer = AWAY
    follower = ChainFollower(
        source, FollowSchedule(chance=lambda: 1.0), on_crash=lambda: None, clock=clock, sleep=clock.sleep
    )
    with pytest.raises(ChainUnavailableError, match="no answer"):
        follower.first_view(30.0)
    assert source.reads == len(clock.slept) + 1 > 4
    assert sum(clock.slept) < 30
    assert all(later > earlier / 2 for earlier, later in zip(clock.slept, clock.slept[1:], strict=False))


def test_the_first_view_is_taken_as_soon_as_it_comes():
    clock, source = Clock(), Source(VIEW)
    source.answer = AWAY

    def sleep(delay_s):
        clock.sleep(delay_s)
        if len(clock.slept) == 3:
            source.answer = VIEW

    schedule = FollowSchedule(interval_s=INTERVAL_S, chance=lambda: 1.0)
    follower = ChainFollower(source, schedule, on_crash=lambda: None, clock=clock, sleep=sleep)
    assert follower.first_view(30.0) == VIEW
    assert (source.reads, follower.describe()["last_error"]) == (4, None)
    assert schedule.due_in_s(clock.now_s) == pytest.approx(INTERVAL_S)


@pytest.mark.parametrize("error", [SubnetNotFoundError("no subnet 9"), RosterError("line 3 is wrong")])
def test_what_no_patience_mends_is_raised_at_once(error):
    clock, source = Clock(), Source(VIEW)
    source.answer = error
    follower = ChainFollower(
        source, FollowSchedule(chance=lambda: 1.0), on_crash=lambda: None, clock=clock, sleep=clock.sleep
    )
    with pytest.raises(type(error), match=str(error)):
        follower.first_view(30.0)
    assert clock.slept == []


def test_a_roster_is_read_only_on_request(tmp_path):
    path = tmp_path / "roster.yaml"
    path.write_text("experts: [{name: a}]")
    config = RosterChain(roster=str(path))
    following = Following(build_source(config), build_schedule(config))
    path.write_text("experts: [{name: b}]")
    assert following.pass_s(1e6) is None
    assert following.learner.view.hotkeys == ("a",)
    following.follower.refresh("ops")
    assert following.learner.view.hotkeys == ("b",)


class Threaded:
    """A follower in its own thread and in real time."""

    def __init__(self, source, config, resync):
        self.crashed = threading.Event()
        self.seen = []
        self.changed = threading.Condition()
        self._resync = resync
        self.follower = ChainFollower(source, build_schedule(config), on_crash=self.crashed.set)
        self.first = self.follower.first_view(30.0)

    def start(self):
        self.follower.start(self._take)

    def _take(self, view, author):
        summary = self._resync(view, author)
        with self.changed:
            self.seen.append(view)
            self.changed.notify_all()
        return summary

    def wait_for(self, condition):
        with self.changed:
            assert self.changed.wait_for(lambda: any(condition(view) for view in self.seen), timeout=20)


def test_a_thread_follows_a_real_node_through_an_outage_and_is_stopped(start_node):
    node = start_node(netuid=5, n=3)
    config = BittensorChain(source="bittensor", network=node.url, netuid=5, resync_interval_s=0.01, call_timeout_s=0.5)
    learner = None
    threaded = Threaded(build_source(config), config, lambda view, author: learner.resync(view, author))
    learner = build_learner(view=threaded.first)
    threaded.start()
    node.subnet.register("newcomer", uid=1)
    threaded.wait_for(lambda view: view.hotkeys[1] == node.subnet.hotkeys[1])
    node.stop()
    node.subnet.register("another", uid=2)
    node.start()
    threaded.wait_for(lambda view: view.hotkeys[2] == node.subnet.hotkeys[2])
    status = threaded.follower.describe()
    assert (status["network"], status["endpoint"]) == (node.url, node.url)
    threaded.follower.stop()
    assert not threaded.crashed.is_set()
    node.wait_until_open(0)


def test_a_node_that_lags_is_refused_until_it_has_caught_up(start_node):
    node = start_node(netuid=5, n=3)
    config = BittensorChain(source="bittensor", network=node.url, netuid=5, resync_interval_s=INTERVAL_S)
    following = Following(build_source(config), FollowSchedule(interval_s=INTERVAL_S, chance=lambda: 1.0))
    node.subnet.go_back(10)
    following.pass_s(INTERVAL_S)
    assert (following.status["stale_views"], following.status["block"]) == (1, 100)
    node.subnet.advance(11)
    following.pass_s(1)
    assert (following.status["last_error"], following.status["block"]) == (None, 101)
    following.follower.stop()


def test_a_follower_that_cannot_go_on_says_so(caplog):
    def fail(_view, _author):
        raise RuntimeError("the log is gone")

    source = Source(VIEW)
    config = BittensorChain(source="bittensor", netuid=1, resync_interval_s=0.001)
    threaded = Threaded(source, config, fail)
    threaded.start()
    assert threaded.crashed.wait(10)
    assert "the log is gone" in caplog.text
    threaded.follower.stop()
    assert source.closed


def test_an_interval_in_blocks_is_the_default_of_a_subnet_and_seconds_take_its_place():
    by_blocks = build_schedule(BittensorChain(source="bittensor", netuid=1))
    by_blocks.fetched(0.0, 100)
    assert by_blocks.due_in_s(0.0) == BLOCK_S
    by_seconds = build_schedule(BittensorChain(source="bittensor", netuid=1, resync_interval_s=7.0))
    by_seconds.fetched(0.0, 100)
    assert by_seconds.due_in_s(0.0) == 7.0
