import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gating import MetagraphView, plan_resync
from learner.errors import DecisionPendingError, RepeatedUidError, UnknownUidError
from learner.event_log import Commit
from learner.events import Outcome
from learner.memory_log import MemoryEventLog
from learner.rewards import DEFAULT_AUTHOR, Network, RewardJoin
from learner.tenures import Tenures

from .builders import EPOCH, START, decision, embedding, message_reward, reward

WINDOW_S = 100.0
DECIDED = ("d-1", "d-2", "d-3")


def never(_decision_id):
    return False


class Desk:
    """A join over a log with three decisions at time 0, each for uids 0, 1 and 2. Reports are logged at once."""

    def __init__(self, view=START, decided=DECIDED, **settings):
        self.log = MemoryEventLog(started_at_ms=EPOCH)
        self.join = RewardJoin(
            **{
                "window_s": WINDOW_S,
                "reward_range": (0.0, 1.0),
                "lookup": self.log,
                "comparable": lambda epoch: epoch == EPOCH,
                **settings,
            }
        )
        self.network = Network(view, Tenures())
        if decided:
            self.decide(*(decision(name, (0, 1, 2), view=view) for name in decided))

    def decide(self, *decisions, now_s=0.0):
        new = self.join.add_decisions(decisions, now_s)
        self.log.commit(Commit(now_s, decisions=new))
        return new

    def report(self, *items, now_s=1.0, is_pending=never):
        result = self.join.join(items, self.network, now_s, is_pending=is_pending)
        self.write(result.events, now_s)
        return result

    def write(self, events, now_s=1.0):
        first = self.log.last_seq + 1
        placed = [replace(event, seq=seq, batch=seq) for seq, event in enumerate(events, start=first)]
        self.log.commit(Commit(now_s, events=placed))

    def assume(self, decision_id, value=0.25):
        """Have the default reward of a decision, and log it."""
        embedding = self.log.embeddings([decision_id]).get(decision_id)
        event = self.join.default_rewards(decision_id, value, self.network, embedding)
        self.write([] if event is None else [event])
        return event

    def resync(self, hotkeys, seq):
        self.follow(MetagraphView.from_hotkeys(hotkeys, block=self.network.view.block + 1), seq)

    def follow(self, view, seq):
        self.network = self.network.after(view, plan_resync(self.network.view, view), seq)

    def rewards_of(self, decision_id):
        """By the index, which has to say what the log says."""
        found, _ = self.log.find([decision_id], [])
        known = self.join._decisions.get(decision_id)
        if known is not None:
            assert (known.rewards, known.authors) == (found[decision_id].rewards, found[decision_id].authors)
        return found[decision_id].rewards if found else {}

    def books(self):
        known = (self.join._decisions, self.join._reward_ids)
        return [{key: dict(entry.rewards) for key, entry in part.items()} for part in known]


def account(result):
    return result.accepted, result.duplicates, [(r.index, r.code, r.uid) for r in result.rejected]


def test_a_reward_for_a_decision_is_accepted_with_the_decisions_embedding():
    desk = Desk()
    result = desk.report(reward("d-1", {2: 0.7, 0: 0.1}))
    assert account(result) == (2, 0, [])
    [event] = result.events
    assert (event.uids, event.rewards, event.outcome) == ((2, 0), (0.7, 0.1), Outcome.LEARNED)
    assert (event.decision_id, event.reward_id) == ("d-1", None)
    assert event.embedding is desk.log.decision("d-1").embedding


def test_a_decisions_rewards_may_come_one_by_one():
    desk = Desk()
    results = [desk.report(reward("d-1", {uid: 0.1 * uid})) for uid in (1, 0, 2)]
    assert [account(result) for result in results] == [(1, 0, [])] * 3
    assert [result.events[0].uids for result in results] == [(1,), (0,), (2,)]
    assert desk.rewards_of("d-1") == {1: 0.1, 0: 0.0, 2: 0.2}
    assert [result.joined_decisions for result in results] == [1, 0, 0]


def test_the_first_report_of_a_reward_wins():
    desk = Desk()
    same_request = desk.report(reward("d-1", {0: 0.2}), reward("d-1", {0: 0.9, 1: 0.3}))
    assert account(same_request) == (2, 1, [])
    assert [(event.uids, event.rewards) for event in same_request.events] == [((0,), (0.2,)), ((1,), (0.3,))]
    later = desk.report(reward("d-1", {0: 0.8, 1: 0.8, 2: 0.8}))
    assert account(later) == (1, 2, [])
    assert [event.uids for event in later.events] == [(2,)]
    assert account(desk.report(reward("d-1", {0: 0.1}))) == (0, 1, [])
    assert desk.rewards_of("d-1") == {0: 0.2, 1: 0.3, 2: 0.8}


def test_a_decision_that_nobody_made_is_unknown():
    desk = Desk()
    assert account(desk.report(reward("d-9", {0: 0.5}))) == (0, 0, [(0, "unknown_decision", None)])
    assert desk.rewards_of("d-9") == {}


def test_a_uid_that_was_not_chosen_rejects_the_item_but_not_the_others():
    desk = Desk()
    result = desk.report(reward("d-1", {0: 0.5, 4: 0.5}), reward("d-2", {0: 0.5}))
    assert account(result) == (1, 0, [(0, "uid_not_in_decision", None)])
    assert "uids [4] were not chosen by this decision, which chose [0, 1, 2]" in result.rejected[0].detail
    assert desk.rewards_of("d-1") == {}


@pytest.mark.parametrize("outside", [-0.001, 1.001, math.nan, math.inf])
def test_a_reward_out_of_range_rejects_the_item_as_a_whole(outside):
    desk = Desk()
    items = [reward("d-1", {0: 0.5, 1: outside}), message_reward("r-1", {0: outside}), reward("d-1", {1: 1.0})]
    result = desk.report(*items)
    assert account(result) == (1, 0, [(0, "out_of_range", None), (1, "out_of_range", None)])
    assert "lie outside [0, 1]" in result.rejected[0].detail
    assert desk.rewards_of("d-1") == {1: 1.0}


def test_both_ends_of_the_range_are_in_it():
    assert account(Desk().report(reward("d-1", {0: 0.0, 1: 1.0}))) == (2, 0, [])


def test_a_uid_whose_owner_changed_is_stale_and_the_others_are_taken():
    desk = Desk()
    desk.resync(["a", "x", "c", "d", "e", "f"], seq=5)
    result = desk.report(reward("d-1", {0: 0.5, 1: 0.6}))
    assert account(result) == (1, 0, [(0, "stale_hotkey", 1)])
    assert [(event.uids, event.rewards, event.outcome) for event in result.events] == [
        ((0,), (0.5,), Outcome.LEARNED),
        ((1,), (0.6,), Outcome.STALE),
    ]
    assert account(desk.report(reward("d-1", {1: 0.6}))) == (0, 1, [])
    assert desk.rewards_of("d-1") == {0: 0.5, 1: 0.6}


def test_a_uid_that_the_network_lost_is_stale_for_a_decision_that_chose_it():
    desk = Desk()
    desk.resync(["a", "b"], seq=5)
    assert account(desk.report(reward("d-1", {0: 0.5, 2: 0.5}))) == (1, 0, [(0, "stale_hotkey", 2)])


@pytest.mark.parametrize("between", [["a", "x", "c"], ["a"]])
def test_an_owner_that_lost_its_uid_and_came_back_starts_afresh(between):
    desk = Desk()
    desk.resync(between, seq=5)
    desk.resync(["a", "b", "c"], seq=6)
    desk.decide(decision("before", (0, 1), version=5, view=START), decision("since", (0, 1), version=6))
    for name in ("d-1", "before"):
        assert account(desk.report(reward(name, {0: 0.5, 1: 0.5}))) == (1, 0, [(0, "stale_hotkey", 1)])
    assert account(desk.report(reward("since", {0: 0.5, 1: 0.5}))) == (2, 0, [])


def test_a_version_of_another_epoch_says_nothing_about_this_ones_resyncs():
    desk = Desk()
    desk.resync(["a", "x", "c"], seq=5)
    desk.resync(["a", "b", "c"], seq=6)
    desk.decide(decision("old", (0, 1), epoch=EPOCH - 1, version=1_000))
    assert account(desk.report(reward("old", {0: 0.5, 1: 0.5}))) == (1, 0, [(0, "stale_hotkey", 1)])


def test_a_decision_for_another_hotkey_than_todays_is_stale_without_any_resync():
    desk = Desk()
    elsewhere = MetagraphView.from_hotkeys(["a", "y", "c"])
    desk.decide(decision("old", (0, 1), epoch=EPOCH - 1, version=1_000, view=elsewhere))
    assert account(desk.report(reward("old", {0: 0.5, 1: 0.5}))) == (1, 0, [(0, "stale_hotkey", 1)])


def test_a_late_reward_is_logged_but_not_to_be_learned():
    desk = Desk()
    assert account(desk.report(reward("d-1", {0: 0.5}), now_s=WINDOW_S)) == (1, 0, [])
    late = desk.report(reward("d-1", {0: 0.5, 1: 0.6, 2: 0.7}), now_s=WINDOW_S + 0.1)
    assert account(late) == (0, 1, [(0, "late", 1), (0, "late", 2)])
    assert [(event.uids, event.rewards, event.outcome) for event in late.events] == [((1, 2), (0.6, 0.7), Outcome.LATE)]
    again = desk.report(reward("d-1", {1: 0.6}), now_s=WINDOW_S + 0.2)
    assert account(again) == (0, 1, [])
    assert desk.rewards_of("d-1") == {0: 0.5, 1: 0.6, 2: 0.7}


def test_an_erased_embedding_leaves_nothing_to_learn_from():
    desk = Desk()
    desk.log.erase_embedding("d-1")
    assert account(desk.report(reward("d-1", {0: 0.5}))) == (0, 0, [(0, "embedding_erased", None)])
    assert desk.rewards_of("d-1") == {}


def test_a_message_and_its_reward_id_make_a_reward_idempotent():
    desk = Desk()
    first = desk.report(message_reward("r-1", {3: 0.5, 4: 0.6}), message_reward("r-2", {3: 0.5}))
    assert account(first) == (3, 0, [])
    assert [(event.reward_id, event.decision_id) for event in first.events] == [("r-1", None), ("r-2", None)]
    assert first.events[0].embedding.tobytes() == embedding(len("r-1")).tobytes()
    again = desk.report(message_reward("r-1", {3: 0.9, 5: 0.7}))
    assert account(again) == (1, 1, [])
    assert [event.uids for event in again.events] == [(5,)]


def test_a_reward_id_and_a_decision_of_the_same_name_do_not_meet():
    desk = Desk()
    desk.report(reward("d-1", {0: 0.5}))
    assert account(desk.report(message_reward("d-1", {0: 0.5}))) == (1, 0, [])


@pytest.mark.parametrize(
    ("bad", "error", "says"),
    [
        (reward("d-1", {6: 0.5}), UnknownUidError, r"rewards\[2\] names uid 6; the network has uids 0 to 5"),
        (message_reward("r-1", {-1: 0.5}), UnknownUidError, r"rewards\[2\] names uid -1"),
        (reward("d-9", {99: 0.5}), UnknownUidError, r"rewards\[2\] names uid 99"),
        (reward("way-1", {0: 0.5}), DecisionPendingError, "decision way-1 has not arrived yet"),
    ],
)
def test_what_is_wrong_with_one_item_stops_the_whole_request_before_anything_changes(bad, error, says):
    desk = Desk()
    desk.report(reward("d-1", {0: 0.5}))
    before = desk.books()
    good = [reward("d-1", {1: 0.5}), message_reward("r-2", {0: 0.5})]
    with pytest.raises(error, match=says):
        desk.report(*good, bad, is_pending=lambda name: name.startswith("way-"))
    assert desk.books() == before
    assert account(desk.report(*good)) == (2, 0, [])


def test_an_item_that_names_a_uid_twice_stops_the_whole_request():
    desk = Desk()
    repeated = message_reward("r-1", {0: 0.5, 1: 0.5})
    repeated = type(repeated)((0, 0), repeated.rewards, reward_id="r-1", embedding=repeated.embedding)
    before = desk.books()
    with pytest.raises(RepeatedUidError, match=r"rewards\[1\] names a uid twice"):
        desk.report(reward("d-1", {0: 0.5}), repeated)
    assert desk.books() == before


def test_a_known_decision_is_not_taken_in_again():
    desk = Desk()
    desk.report(reward("d-1", {0: 0.5}))
    new = desk.decide(decision("d-1", (3, 4)), decision("d-4"), decision("d-4", (3, 4)))
    assert [(made.id, made.uids) for made in new] == [("d-4", (0, 1))]
    assert desk.rewards_of("d-1") == {0: 0.5}


def test_what_the_index_has_forgotten_the_log_still_knows():
    desk = Desk()
    desk.report(reward("d-1", {0: 0.5}), message_reward("r-1", {0: 0.5}))
    desk.join.clear()
    assert desk.books() == [{}, {}]
    result = desk.report(reward("d-1", {0: 0.1, 1: 0.2}), message_reward("r-1", {0: 0.1, 2: 0.2}))
    assert account(result) == (2, 2, [])
    assert result.joined_decisions == 0
    assert desk.rewards_of("d-1") == {0: 0.5, 1: 0.2}
    assert desk.report(reward("d-2", {0: 0.1})).joined_decisions == 1


def test_the_index_holds_the_newest_up_to_its_capacity_and_is_trimmed_only_when_told():
    desk = Desk(capacity=2)
    desk.report(*(message_reward(f"r-{index}", {0: 0.5}) for index in range(4)))
    assert [list(known) for known in desk.books()] == [list(DECIDED), ["r-0", "r-1", "r-2", "r-3"]]
    desk.join.trim()
    assert [list(known) for known in desk.books()] == [["d-2", "d-3"], ["r-2", "r-3"]]
    assert account(desk.report(message_reward("r-0", {0: 0.5}), reward("d-1", {0: 0.5}))) == (1, 1, [])


def test_the_log_is_asked_only_about_what_the_index_has_not():
    asked = []

    class Asked(MemoryEventLog):
        def find(self, decision_ids, reward_ids):
            asked.append((list(decision_ids), list(reward_ids)))
            return super().find(decision_ids, reward_ids)

    desk = Desk(lookup=Asked(started_at_ms=EPOCH))
    desk.report(reward("d-9", {0: 0.5}), reward("d-9", {0: 0.5}), message_reward("r-1", {0: 0.5}))
    assert asked == [(["d-9"], ["r-1"])]
    desk.join.load(["d-1"], ["r-1"])
    assert len(asked) == 1


def test_a_default_reward_is_for_the_uids_without_a_report_whose_owners_have_stayed():
    desk = Desk()
    desk.report(reward("d-1", {0: 0.5}))
    desk.resync(["a", "b", "x", "d", "e", "f"], seq=5)
    event = desk.assume("d-1")
    assert (event.uids, event.rewards, event.outcome, event.author) == ((1,), (0.25,), Outcome.DEFAULT, DEFAULT_AUTHOR)
    assert event.embedding is desk.log.decision("d-1").embedding
    assert desk.assume("d-1") is None
    assert desk.rewards_of("d-1") == {0: 0.5, 1: 0.25}


def test_a_default_reward_needs_a_decision_and_its_embedding():
    desk = Desk()
    desk.log.erase_embedding("d-1")
    assert desk.assume("d-1") is None
    assert desk.assume("d-9") is None
    assert desk.rewards_of("d-1") == {}


@pytest.mark.parametrize("forgets", [False, True])
def test_a_report_after_the_default_was_assumed_is_late_and_then_a_duplicate(forgets):
    desk = Desk()
    desk.assume("d-1")
    if forgets:
        desk.join.clear()
    late = desk.report(reward("d-1", {0: 0.75}), now_s=2.0)
    assert account(late) == (0, 0, [(0, "late", 0)])
    assert [(event.uids, event.rewards, event.outcome) for event in late.events] == [((0,), (0.75,), Outcome.LATE)]
    if forgets:
        desk.join.clear()
    assert account(desk.report(reward("d-1", {0: 0.75}), now_s=3.0)) == (0, 1, [])
    assert desk.rewards_of("d-1") == {0: 0.75, 1: 0.25, 2: 0.25}


@pytest.mark.parametrize("forgets", [False, True])
def test_an_author_may_be_called_as_the_default_is(forgets):
    """By its name nobody can tell what was reported from what was assumed."""
    desk = Desk()
    assert account(desk.report(reward("d-1", {0: 0.75}, DEFAULT_AUTHOR))) == (1, 0, [])
    if forgets:
        desk.join.clear()
    assert account(desk.report(reward("d-1", {0: 0.25}, DEFAULT_AUTHOR))) == (0, 1, [])
    assert desk.rewards_of("d-1") == {0: 0.75}


def test_a_pending_decision_is_waited_for_before_its_uids_are_judged():
    """They may have left the network since; only the decision tells that they were there."""
    desk = Desk()
    with pytest.raises(DecisionPendingError):
        desk.join.join([reward("d-9", {99: 0.5})], desk.network, 1.0, is_pending=lambda _: True)
    with pytest.raises(UnknownUidError):
        desk.join.join([reward("d-9", {99: 0.5})], desk.network, 1.0, is_pending=never)


def test_a_report_for_a_decision_of_the_same_commit_finds_its_embedding_there():
    desk = Desk()
    made = decision("d-4")
    desk.join.add_decisions([made], 0.0)
    staged = {"d-4": made.embedding}
    result = desk.join.join([reward("d-4", {0: 0.5})], desk.network, 1.0, is_pending=never, staged=staged)
    assert account(result) == (1, 0, [])
    assert result.events[0].embedding is made.embedding


def test_a_network_follows_a_resync_into_one_of_its_own():
    desk = Desk()
    before = desk.network
    desk.resync(["a", "x", "c", "d", "e", "f"], seq=5)
    assert (before.view, before.tenures) == (START, Tenures())
    assert desk.network.view.hotkeys[1] == "x"
    assert desk.network.tenures.since == {1: 5}


uids_and_rewards = st.dictionaries(st.integers(0, 5), st.floats(-0.2, 1.2), min_size=1, max_size=4)
items = st.tuples(st.sampled_from(["d-1", "d-2", "d-3", "d-9", "r-1", "r-2"]), uids_and_rewards)
reports = st.tuples(st.lists(items, max_size=5), st.sampled_from([1.0, 2.0 * WINDOW_S]))


@settings(deadline=None)
@given(st.lists(reports, max_size=6), st.booleans())
def test_every_reward_that_was_sent_is_accounted_for_exactly_once(history, owner_changes):
    desk, logged = Desk(), []
    for step, (report, now_s) in enumerate(history):
        if owner_changes and step == 2:
            desk.resync(["a", "x", "c", "d", "e", "f"], seq=5)
        report = [(reward if name.startswith("d-") else message_reward)(name, values) for name, values in report]
        result = desk.report(*report, now_s=now_s)
        whole = sum(len(report[r.index].uids) for r in result.rejected if r.uid is None)
        single = sum(1 for r in result.rejected if r.uid is not None)
        assert result.accepted + result.duplicates + whole + single == sum(len(item.uids) for item in report)
        learned = [event for event in result.events if event.outcome is Outcome.LEARNED]
        assert sum(len(event.uids) for event in learned) == result.accepted
        logged += [(event.decision_id, event.reward_id, uid) for event in result.events for uid in event.uids]
    assert len(set(logged)) == len(logged)


def test_an_owner_that_swapped_its_own_hotkey_still_earns_for_its_earlier_decisions():
    before = MetagraphView(("a", "b"), (True, True), (5, 6), block=10)
    swapped = MetagraphView(("a", "new"), (True, True), (5, 6), block=11)
    desk = Desk(view=before, decided=())
    desk.decide(decision("i-1", (0, 1), view=before))
    desk.follow(swapped, 3)
    assert account(desk.report(reward("i-1", {0: 0.5, 1: 0.5}))) == (2, 0, [])
    taken = MetagraphView(("a", "other"), (True, True), (5, 12), block=12)
    desk.decide(decision("i-2", (0, 1), view=swapped, version=3), now_s=1.0)
    desk.follow(taken, 4)
    assert account(desk.report(reward("i-2", {0: 0.5, 1: 0.5}))) == (1, 0, [(0, "stale_hotkey", 1)])


def test_each_reward_keeps_its_own_author_and_a_duplicate_changes_it_not():
    desk = Desk()
    first = desk.report(replace(reward("d-1", {0: 0.5}), author="alice"))
    second = desk.report(replace(reward("d-1", {0: 0.9, 1: 0.1}), author="bob"))
    assert desk.join._decisions["d-1"].authors == {0: "alice", 1: "bob"}
    assert [event.author for event in (*first.events, *second.events)] == ["alice", "bob"]
