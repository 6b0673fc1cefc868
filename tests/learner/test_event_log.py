"""What every log promises."""

import math
import uuid

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from learner.event_log import Chosen, Commit, EventLog, Genesis
from learner.events import Action, OperatorEvent, Outcome, Publish, Reported, ResyncEvent
from learner.memory_log import MemoryEventLog

from .logs import VIEW, batches, commit, comparable, decision, embedding, places, reward

ODD = [
    "it's",
    'say "hi"',
    "naïve ☃ 𝄞",
    "100% %s ?",
    "nul \x00.",
    "half \ud800 of a pair",
    "back\\slash \\u0000",
    "",
    " ",
]


def test_a_new_log_is_empty(log):
    assert isinstance(log, EventLog)
    assert log.durable is not isinstance(log, MemoryEventLog)
    assert uuid.UUID(log.id)
    assert log.epoch >= 1
    assert (log.last_seq, log.last_time_s, log.first_seq(), log.genesis) == (0, 0.0, 1, None)
    assert list(log.batches(0)) == []
    assert log.decisions_count() == 0
    assert list(log.chosen_after(0)) == []
    assert log.unrewarded(1e9, 10) == []
    assert log.find(["d"], ["r"]) == ({}, {})
    assert log.find([], []) == ({}, {})
    assert log.embeddings(["d"]) == {}
    assert log.decision("d") is None
    assert log.reward_events([1]) == []
    assert log.prune(upto=100, before_s=1e9, keep=[]) == 0


def test_what_was_assumed_is_told_from_what_was_reported(log):
    assumed = reward(1, decision_id="d", outcome=Outcome.DEFAULT, author="default")
    commit(log, decision("d", (0, 1)), assumed)
    assert log.find(["d"], [])[0]["d"].assumed == set(assumed.uids)
    commit(log, reward(2, decision_id="d", outcome=Outcome.LATE, author="default"))
    assert log.find(["d"], [])[0]["d"].assumed == set()


def test_its_size_is_told(log):
    empty = log.size()
    assert empty.rows == {"events": 0, "decisions": 0}
    commit(log, decision("d", (0,)), decision("e", (0,)), reward(1, decision_id="d"))
    commit(log, *(decision(f"f{number}", (0,)) for number in range(1000)))
    size = log.size()
    assert size.rows == {"events": 1, "decisions": 1002}
    if log.durable:
        assert size.bytes > empty.bytes > 0
    else:
        assert size.bytes is None


def test_what_learning_starts_from_is_kept(log):
    genesis = Genesis(VIEW, seed=2**40)
    log.begin(genesis)
    assert log.genesis == genesis
    log.refresh()
    assert log.genesis == genesis


def test_events_follow_each_other_without_a_gap(log):
    commit(log, reward(1))
    for wrong in (1, 3):
        with pytest.raises(ValueError, match=f"the next event's place is 2, got {wrong}"):
            commit(log, reward(wrong, reward_id="another"))
    assert log.last_seq == 1
    commit(log, reward(2), reward(3))
    assert (log.last_seq, log.first_seq()) == (3, 1)
    log.refresh()
    assert log.last_seq == 3


def test_a_decision_comes_back_as_it_was_made(log):
    made = decision("d", (2, 0), scores=(0.1, math.pi), propensities=(1.0, 1 / 3))
    commit(log, made)
    assert comparable(log.decision("d")) == comparable(made)


def test_a_score_that_is_no_number_stays_none(log):
    commit(log, decision("d", (1,), scores=(math.nan,)))
    assert math.isnan(log.decision("d").scores[0])


def test_a_decision_that_is_known_is_kept_as_it_was(log):
    commit(log, decision("d", (0, 1)), decision("e"), decision("d", (1, 2)), at_s=1.0)
    commit(log, decision("d", (2, 3)), decision("f"), at_s=2.0)
    assert log.decision("d").uids == (0, 1)
    assert log.find(["d"], [])[0]["d"].at_s == 1.0
    assert log.decisions_count() == 3
    assert [(chosen.row, chosen.decision_id) for chosen in log.chosen_after(0)] == [(1, "d"), (2, "e"), (3, "f")]


def test_what_decisions_chose_comes_in_the_order_of_their_arrival(log):
    commit(log, decision("z", (2, 0)), decision("a", (3,)))
    commit(log, decision("m", (1,)))
    expected = [
        Chosen(1, "z", (2, 0), ("c", "a"), 3, 40),
        Chosen(2, "a", (3,), ("d",), 3, 40),
        Chosen(3, "m", (1,), ("b",), 3, 40),
    ]
    for row in range(4):
        assert list(log.chosen_after(row)) == expected[row:]
    assert log.decisions_count() == 3


def test_decisions_without_their_default_rewards_are_found(log):
    for at_s in (1.0, 2.0, 3.0):
        commit(log, decision(f"d-{at_s:g}"), at_s=at_s)

    def found(before_s, limit=10):
        return [chosen.decision_id for chosen in log.unrewarded(before_s, limit)]

    assert found(3.0) == ["d-1", "d-2"]
    assert found(9.0) == ["d-1", "d-2", "d-3"]
    assert found(9.0, limit=2) == ["d-1", "d-2"]
    commit(log, reward(1, "d-2"), at_s=4.0)
    assert found(9.0) == ["d-1", "d-2", "d-3"]
    commit(log, at_s=4.0, defaults_until=1)
    assert found(9.0) == ["d-2", "d-3"]
    commit(log, at_s=5.0)
    assert found(9.0) == ["d-2", "d-3"]
    commit(log, at_s=6.0, defaults_until=3)
    assert found(9.0) == []


def test_what_is_known_of_decisions_and_reward_ids_is_found(log):
    commit(log, decision("d", (2, 0)), decision("quiet"), at_s=1.5)
    commit(
        log,
        reward(1, "d", uids=(2,), rewards=(0.75,), author="x"),
        reward(2, reward_id="r", uids=(3, 1), rewards=(0.5, 0.25), author="y"),
        at_s=2.5,
    )
    commit(
        log,
        reward(3, "d", uids=(0,), rewards=(0.1,), outcome=Outcome.LATE),
        reward(4, reward_id="r", uids=(0,), rewards=(1.0,), outcome=Outcome.STALE, author="z"),
        at_s=3.5,
    )
    decisions, reward_ids = log.find(["d", "quiet", "unheard-of"], ["r", "unheard-of"])
    assert decisions == {
        "d": Reported(1.5, 3, 40, (2, 0), ("c", "a"), {2: 0.75, 0: 0.1}, {2: "x", 0: "anonymous"}),
        "quiet": Reported(1.5, 3, 40, (2, 0), ("c", "a")),
    }
    assert reward_ids == {"r": Reported(2.5, rewards={3: 0.5, 1: 0.25, 0: 1.0}, authors={3: "y", 1: "y", 0: "z"})}


def test_any_number_of_ids_can_be_asked_for(log):
    ids = [f"d-{number}" for number in range(5000)]
    commit(log, *(decision(decision_id) for decision_id in ids))
    commit(log, *(reward(number, reward_id=f"r-{number}") for number in range(1, 41)))
    decisions, reward_ids = log.find([*ids, "unheard-of"] * 9, [f"r-{number}" for number in range(40_000)])
    assert set(decisions) == set(ids)
    assert len(reward_ids) == 40
    assert set(log.embeddings(ids)) == set(ids)
    assert len(log.reward_events(range(1, 40_000))) == 40


@pytest.mark.parametrize("text", ODD)
def test_ids_and_names_may_be_any_text(log, text):
    commit(
        log,
        decision(text, (1,), hotkeys=(text,), candidates_digest=text),
        decision("other"),
        reward(1, text, author=text),
        reward(2, reward_id=text, author=text),
        OperatorEvent(Action.ERASE, author=text, arguments={"decision_id": text}, seq=3, batch=3),
    )
    decisions, reward_ids = log.find([text], [text])
    assert decisions[text].hotkeys == (text,)
    assert set(decisions[text].authors.values()) == set(reward_ids[text].authors.values()) == {text}
    assert log.decision(text).candidates_digest == text
    assert next(log.chosen_after(0)).decision_id == text
    assert list(log.embeddings([text])) == [text]
    [[first], [second], [third]] = log.batches(0)
    assert (first.decision_id, second.reward_id, third.author) == (text, text, text)
    assert third.arguments == {"decision_id": text}
    assert log.erase_embedding(text)
    assert log.decision(text).embedding is None


def test_batches_come_whole_and_between_the_numbers_asked_for(log):
    commit(log, *(reward(seq, batch=batch) for seq, batch in enumerate((2, 2, 3, 6, 6), 1)))
    commit(log, reward(6, batch=6), reward(7, batch=7))
    assert places(log) == [[1, 2], [3], [4, 5, 6], [7]]
    assert places(log, 2) == [[3], [4, 5, 6], [7]]
    assert places(log, 2, 6) == [[3], [4, 5, 6]]
    assert places(log, 1, 5) == [[1, 2], [3]]
    assert places(log, 4) == [[4, 5, 6], [7]]
    assert places(log, 7) == places(log, 3, 3) == places(log, 3, 5) == []


def test_an_event_has_the_embedding_of_its_decision_or_message(log):
    commit(log, decision("d", embedding=embedding(1)), decision("e", embedding=embedding(2)))
    commit(log, reward(1, "d"), reward(2), reward(3, "e", uids=(1,), rewards=(0.5,)))
    found = [event.embedding for batch in log.batches(0) for event in batch]
    np.testing.assert_array_equal(found, [embedding(1), embedding(2), embedding(2)])
    assert {vector.dtype for vector in found} == {np.dtype(np.float16)}


def test_an_erased_embedding_is_gone_everywhere_and_stays_gone(log):
    commit(log, decision("d"), decision("e"), reward(1, "d"), reward(2, "e"))
    assert log.erase_embedding("d")
    commit(log, decision("d"))
    assert log.decision("d").embedding is None
    assert log.decision("d").uids == (2, 0)
    assert log.decision("e").embedding is not None
    assert [event.embedding is None for event in log.reward_events([1, 2])] == [True, False]
    assert [event.embedding is None for [event] in log.batches(0)] == [True, False]
    found = log.embeddings(["d", "e", "unheard-of"])
    assert found["d"] is None
    np.testing.assert_array_equal(found["e"], embedding(1))
    assert log.erase_embedding("d")
    assert not log.erase_embedding("unheard-of")
    assert log.last_seq == 2


def test_reward_events_are_read_at_their_places(log):
    events = [reward(1), reward(2), ResyncEvent(VIEW, 5, seq=3, batch=3), reward(4, uids=(3, 0, 1), rewards=(0.0,) * 3)]
    commit(log, *events)
    found = log.reward_events([4, 3, 2, 99])
    assert [comparable(event) for event in found] == [comparable(events[1]), comparable(events[3])]


def test_what_a_reward_counts_and_was_expected_to_be_is_kept(log):
    odd = reward(1, weights=(0.1, 1.0), expected=(None, 0.3))
    commit(log, odd, reward(2), reward(3, outcome=Outcome.QUARANTINED))
    found = [event for batch in log.batches(0) for event in batch]
    assert [(event.weights, event.expected) for event in found] == [((0.1, 1.0), (None, 0.3)), ((), ()), ((), ())]
    assert found[2].outcome is Outcome.QUARANTINED
    assert comparable(log.reward_events([1])[0]) == comparable(odd)


def test_what_was_reported_lately_is_found_with_its_time(log):
    commit(log, decision("d", embedding=embedding(7)), reward(1, "d"), at_s=1.0)
    commit(log, reward(2), ResyncEvent(VIEW, 5, seq=3, batch=3), at_s=2.0)
    commit(log, reward(4, uids=(1,), rewards=(0.5,)), reward(5), at_s=3.0)

    def found(at_s, limit):
        return [(logged_s, event.seq) for logged_s, event in log.reported_since(at_s, limit)]

    assert found(0.0, 9) == [(1.0, 1), (2.0, 2), (3.0, 4), (3.0, 5)]
    assert found(2.0, 9) == [(2.0, 2), (3.0, 4), (3.0, 5)]
    assert found(0.0, 3) == [(2.0, 2), (3.0, 4), (3.0, 5)]
    assert found(3.5, 9) == []
    np.testing.assert_array_equal(log.reported_since(0.0, 9)[0][1].embedding, embedding(7))


def test_a_commit_of_nothing_is_one(log):
    log.commit(Commit(5.0))
    log.renew()
    assert log.last_seq == 0


def test_a_version_may_be_published_again(log):
    for _ in range(2):
        log.commit(Commit(1.0, publishes=[Publish(3, 1.0), Publish(4, 1.0)]))


_TEXT = st.text(max_size=8)
_REWARDS = st.dictionaries(
    st.integers(0, 65_535), st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5
)
_JSON = st.dictionaries(_TEXT, st.none() | st.booleans() | st.integers(-(2**60), 2**60) | _TEXT | st.lists(_TEXT))
_TRUST = st.sampled_from([((), ()), ((0.25, 1.0, 0.0, 0.5, 0.1), (0.5, None, -1.25, 1e300, 0.1))])
_EVENTS = st.one_of(
    st.tuples(st.just("reward"), _REWARDS, st.sampled_from(Outcome), _TEXT, _TEXT, _TRUST),
    st.tuples(st.just("resync"), st.integers(0, 2**63 - 1), st.sampled_from(["keep", "reset"])),
    st.tuples(st.just("operator"), st.sampled_from(Action), _TEXT, _JSON),
)


def _event(kind, *values, seq, batch):
    match kind:
        case "reward":
            rewards, outcome, author, name, (weights, expected) = values
            # A reward id may be used once for a uid, and the database stays from example to example.
            given = {"reward_id": f"{seq}{name}", "uids": tuple(rewards), "rewards": tuple(rewards.values())}
            given |= {"weights": weights[: len(rewards)], "expected": expected[: len(rewards)]}
            return reward(seq, batch=batch, outcome=outcome, author=author, **given)
        case "resync":
            return ResyncEvent(VIEW, *values, seq=seq, batch=batch)
        case "operator":
            return OperatorEvent(*values, seq=seq, batch=batch)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(commits=st.lists(st.lists(_EVENTS, max_size=6), max_size=3))
def test_what_is_committed_comes_back_equal(log, commits):
    start, expected = log.last_seq, []
    for events in commits:
        first, last = log.last_seq + 1, log.last_seq + len(events)
        placed = [_event(*values, seq=seq, batch=last) for seq, values in enumerate(events, first)]
        commit(log, *placed)
        expected += [[comparable(event) for event in placed]] if placed else []
    assert batches(log, start) == expected
