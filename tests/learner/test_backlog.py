"""What waits to be learned, between the thread that logs and the one that learns."""

import threading
import time

from learner.backlog import Backlog
from learner.events import Action, OperatorEvent

PATIENCE_S = 20.0
NEVER_S = 3_600.0


def events(*batches):
    """Events in batches of these last places, the first at place 1."""
    made = []
    for last in batches:
        made += [OperatorEvent(Action.FREEZE, seq=seq, batch=last) for seq in range(len(made) + 1, last + 1)]
    return made


def test_batches_come_out_whole_and_in_order():
    backlog = Backlog(0)
    three = events(2, 3, 7)
    backlog.add(three[:3])
    backlog.add(three[3:])
    assert (len(backlog), backlog.until) == (7, 7)
    assert [backlog.take(), backlog.take(), backlog.take(), backlog.take()] == [three[:2], three[2:3], three[3:], None]
    assert (len(backlog), backlog.until) == (0, 7)


def test_nothing_added_is_nothing_to_take():
    backlog = Backlog(12)
    backlog.add([])
    assert (len(backlog), backlog.until, backlog.take()) == (0, 12, None)


def test_nobody_waits_for_an_empty_one():
    started_s = time.monotonic()
    Backlog(0).wait_until_taken(0, PATIENCE_S)
    assert time.monotonic() - started_s < PATIENCE_S


def test_who_waits_goes_on_once_the_last_batch_is_taken():
    backlog, taken = Backlog(0), []
    backlog.add(events(1, 2))

    def wait():
        backlog.wait_until_taken(0, NEVER_S)
        taken.append(len(backlog))

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    backlog.take()
    assert waiting.is_alive()
    backlog.take()
    waiting.join(PATIENCE_S)
    assert taken == [0]


def test_who_waits_may_leave_some():
    backlog = Backlog(0)
    backlog.add(events(1, 2))
    few, started_s = len(backlog), time.monotonic()
    backlog.wait_until_taken(few, PATIENCE_S)
    assert time.monotonic() - started_s < PATIENCE_S
    assert len(backlog) == few > 0


def test_who_waits_does_not_wait_for_ever():
    backlog = Backlog(0)
    backlog.add(events(1))
    backlog.wait_until_taken(0, 0.01)
    assert len(backlog) == 1
