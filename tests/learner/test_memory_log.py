"""The log in memory, read by some threads while another one commits."""

import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from learner.event_log import EventLog
from learner.memory_log import MemoryEventLog

from .logs import commit, decision, embedding, reward

FULL = 400
ROUNDS = 150


def fill(log: EventLog, first: int, count: int, at_s: float = 1.0) -> None:
    """Commit decisions with a reward event each."""
    numbers = range(first, first + count)
    last = numbers[-1]
    decisions = [decision(f"d-{number}", embedding=embedding(1)) for number in numbers]
    commit(log, *decisions, *(reward(number, f"d-{number}", batch=last) for number in numbers), at_s=at_s)


@pytest.fixture
def full() -> MemoryEventLog:
    """As many decisions and events as it keeps, so that each further one drops the oldest."""
    log = MemoryEventLog(started_at_ms=1_000, max_events=FULL)
    fill(log, 1, FULL)
    return log


@pytest.fixture
def hasty_threads():
    """Threads take turns so often that each meets the other half way."""
    usual_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual_s)


@pytest.mark.parametrize(
    ("read", "whole"),
    [
        (lambda log: log.chosen_after(0), FULL),
        (lambda log: log.observed(), FULL),
        (lambda log: (event for batch in log.batches(0) for event in batch), FULL),
    ],
    ids=["chosen_after", "observed", "batches"],
)
def test_what_is_being_read_goes_on_as_it_was_when_the_reading_began(
    full: MemoryEventLog, read: Callable[[MemoryEventLog], Any], whole: int
) -> None:
    reading = read(full)
    next(reading)
    fill(full, FULL + 1, 10, at_s=5.0)
    assert full.prune(upto=10**9, before_s=4.0, keep=()) == FULL - 10
    assert len(list(reading)) == whole - 1


@pytest.mark.parametrize(
    "read",
    [
        lambda log: log.prune(upto=10**9, before_s=0.0, keep=()),
        lambda log: list(log.observed()),
        lambda log: list(log.batches(log.last_seq - 5)),
        lambda log: list(log.chosen_after(0)),
        lambda log: log.reward_events([log.last_seq]),
        lambda log: log.reported_since(0.0, FULL),
        lambda log: log.unrewarded(1e9, FULL),
    ],
    ids=["prune", "observed", "batches", "chosen_after", "reward_events", "reported_since", "unrewarded"],
)
@pytest.mark.usefixtures("hasty_threads")
def test_any_thread_may_read_and_prune_while_another_commits(
    full: MemoryEventLog, read: Callable[[MemoryEventLog], object]
) -> None:
    done = threading.Event()

    def commit_all() -> None:
        for number in range(ROUNDS):
            fill(full, FULL + 1 + 10 * number, 10)
        done.set()

    committing = threading.Thread(target=commit_all)
    committing.start()
    try:
        while not done.is_set():
            read(full)
    finally:
        committing.join()
    assert full.last_seq == FULL + 10 * ROUNDS
    assert full.size().rows == {"events": FULL, "decisions": FULL}


def test_the_embedding_of_a_message_is_its_own_whatever_decisions_are_called(full: MemoryEventLog) -> None:
    seq = full.last_seq + 1
    commit(full, decision("None", embedding=embedding(7)), reward(seq))
    [event] = full.reward_events([seq])
    assert event.embedding is not None
    assert event.embedding.tobytes() == embedding(seq).tobytes()
