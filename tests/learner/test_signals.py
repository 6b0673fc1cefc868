import asyncio
import threading

import pytest

from learner.signals import Signal

PATIENCE_S = 20.0
NEVER_S = 3_600.0


async def is_woken(signal, condition):
    """Whether notifications alone end the wait: its own time is never up, since that would hide a lost one."""
    async with asyncio.timeout(PATIENCE_S):
        return await signal.wait_until(condition, NEVER_S)


async def test_a_condition_that_holds_is_not_waited_for():
    assert await Signal().wait_until(lambda: True, 0.0)


@pytest.mark.parametrize("timeout_s", [-1.0, 0.0, 0.01])
async def test_the_wait_ends_when_the_time_is_up(timeout_s):
    signal = Signal()
    assert not await signal.wait_until(lambda: False, timeout_s)
    assert not signal._waiting


async def test_a_condition_that_came_to_hold_unnoticed_counts_when_the_time_is_up():
    answers = iter([False, True])
    assert await Signal().wait_until(lambda: next(answers), 0.01)


async def test_a_notification_between_the_look_and_the_wait_is_not_missed():
    signal, looks = Signal(), []

    def holds_after_the_first_look():
        looks.append(len(looks))
        if len(looks) == 1:
            signal.notify()
        return len(looks) > 1

    assert await is_woken(signal, holds_after_the_first_look)
    assert looks == [0, 1]


async def test_a_notification_that_changes_nothing_lets_it_wait_on():
    signal, looks = Signal(), []

    def holds_at_the_third_look():
        looks.append(len(looks))
        asyncio.get_running_loop().call_soon(signal.notify)
        return len(looks) == 3

    assert await is_woken(signal, holds_at_the_third_look)
    assert len(looks) == 3


async def test_no_wake_up_is_lost_between_threads():
    """Ping-pong: a single lost wake-up stops the game until patience runs out."""
    there, back = Signal(), threading.Semaphore(0)
    rounds, served = 1_000, [0]

    def serve():
        for _ in range(rounds):
            if not back.acquire(timeout=PATIENCE_S):
                return
            served[0] += 1
            there.notify()

    thread = threading.Thread(target=serve)
    thread.start()
    for turn in range(rounds):
        back.release()
        assert await is_woken(there, lambda turn=turn: served[0] > turn)
    thread.join()
    assert not there._waiting


def test_everyone_on_every_event_loop_is_woken():
    signal, changed, results = Signal(), threading.Event(), []
    loops, waiters = 3, 5
    all_wait = threading.Barrier(loops + 1)

    async def wait_together():
        looked = 0

        def condition():
            nonlocal looked
            looked += 1
            if looked == waiters:
                all_wait.wait(PATIENCE_S)
            return changed.is_set()

        return await asyncio.gather(*(is_woken(signal, condition) for _ in range(waiters)))

    threads = [threading.Thread(target=lambda: results.extend(asyncio.run(wait_together()))) for _ in range(loops)]
    for thread in threads:
        thread.start()
    all_wait.wait(PATIENCE_S)
    changed.set()
    signal.notify()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert results == [True] * loops * waiters
    assert not signal._waiting


async def test_who_stops_waiting_leaves_nothing_behind():
    signal, waits = Signal(), asyncio.Event()

    def condition():
        waits.set()
        return False

    task = asyncio.create_task(is_woken(signal, condition))
    await waits.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not signal._waiting
    signal.notify()


async def test_what_the_condition_raises_reaches_the_waiter():
    def condition():
        raise LookupError("no such decision")

    signal = Signal()
    with pytest.raises(LookupError, match="no such decision"):
        await is_woken(signal, condition)
    assert not signal._waiting


async def test_a_loop_that_was_closed_does_not_keep_the_others_from_waking():
    signal, answers = Signal(), iter([False, True])
    closed = asyncio.new_event_loop()
    signal._waiting[closed.create_future()] = closed
    closed.close()
    waiting = asyncio.create_task(is_woken(signal, lambda: next(answers)))
    asyncio.get_running_loop().call_soon(signal.notify)
    assert await waiting
