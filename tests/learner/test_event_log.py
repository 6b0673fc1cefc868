import uuid

import pytest

from learner.event_log import EventLog, MemoryEventLog
from learner.events import Outcome, ResyncEvent, RewardEvent

from .builders import EPOCH, START, decision, embedding


def build_log(**settings):
    return MemoryEventLog(started_at_ms=EPOCH, **settings)


def reward_event(uid=0):
    return RewardEvent(uids=(uid,), rewards=(0.5,), outcome=Outcome.LEARNED, embedding=embedding(0), decision_id="d-1")


def test_it_is_an_event_log_that_does_not_outlive_its_process():
    log = build_log()
    assert isinstance(log, EventLog)
    assert not log.durable
    assert log.epoch == EPOCH
    assert log.last_seq == 0


def test_every_log_has_an_id_of_its_own():
    first, second = build_log(), build_log()
    assert uuid.UUID(first.id) != uuid.UUID(second.id)


def test_events_are_numbered_from_one_in_the_order_of_arrival():
    log = build_log()
    placed = log.append([reward_event(), reward_event()]) + log.append([ResyncEvent(view=START, seed=1)])
    assert [event.seq for event in placed] == [1, 2, 3]
    assert log.last_seq == 3
    assert log.append([]) == []
    assert log.last_seq == 3


@pytest.mark.parametrize("after", range(4))
def test_the_events_after_a_number_come_back_in_order(after):
    log = build_log()
    placed = log.append([reward_event(uid) for uid in range(3)])
    assert log.events_after(after) == placed[after:]


def test_the_oldest_events_beyond_the_limit_are_dropped_and_numbers_go_on():
    log = build_log(max_events=2)
    log.append([reward_event(uid) for uid in range(3)])
    assert [event.seq for event in log.events_after(0)] == [2, 3]
    assert log.append([reward_event()])[0].seq == 4


def test_a_decision_that_is_known_is_kept_as_it_was():
    log = build_log()
    first, again = decision("d-1", (0, 1)), decision("d-1", (2, 3))
    log.append_decisions([first])
    log.append_decisions([again, decision("d-2")])
    assert log.decision("d-1") is first
    assert log.decision("d-2") is not None
    assert log.decision("d-3") is None


def test_an_erased_embedding_is_gone_and_stays_gone():
    log = build_log()
    log.append_decisions([decision("d-1")])
    assert log.erase_embedding("d-1")
    log.append_decisions([decision("d-1")])
    assert log.decision("d-1").embedding is None
    assert log.decision("d-1").uids == (0, 1)
    assert log.erase_embedding("d-1")
    assert not log.erase_embedding("d-2")


def test_an_erased_embedding_is_gone_from_the_decision_s_events_too():
    log = build_log()
    log.append_decisions([decision("d-1"), decision("d-2")])
    first, other = (
        RewardEvent((0,), (1.0,), Outcome.LEARNED, embedding(1), decision_id=decision_id)
        for decision_id in ("d-1", "d-2")
    )
    log.append([first, other])
    assert log.erase_embedding("d-1")
    assert [event.decision_id for event in log.events_after(0)] == ["d-2"]
    assert log.last_seq == 2


def test_forgotten_decisions_are_gone():
    log = build_log()
    log.append_decisions([decision("d-1"), decision("d-2")])
    log.forget_decisions(["d-1", "unheard-of"])
    assert log.decision("d-1") is None
    assert log.decision("d-2") is not None
