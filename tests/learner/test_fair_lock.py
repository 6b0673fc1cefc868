"""The lock that keeps its queue, with real threads that wait for conditions."""

import threading

from learner.fair_lock import FairLock

PATIENCE_S = 20.0


def wait_until_queued(lock, count):
    while len(lock._queue) < count:
        threading.Event().wait(0.001)


def test_only_one_thread_holds_it():
    lock, inside, most = FairLock(), [], []

    def work():
        for _ in range(200):
            with lock:
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(most) == 800
    assert max(most) == 1


def test_it_is_had_in_the_order_in_which_it_was_asked_for():
    lock, order, threads = FairLock(), [], []

    def work(name):
        with lock:
            order.append(name)

    with lock:
        for count, name in enumerate("abc", start=1):
            threads.append(threading.Thread(target=work, args=(name,)))
            threads[-1].start()
            wait_until_queued(lock, count)
    for thread in threads:
        thread.join(PATIENCE_S)
    assert order == ["a", "b", "c"]


def test_who_releases_it_and_asks_again_at_once_comes_after_who_has_waited():
    lock, order = FairLock(), []

    def wait():
        with lock:
            order.append("waited")

    waiting = threading.Thread(target=wait)
    with lock:
        waiting.start()
        wait_until_queued(lock, 1)
    with lock:
        order.append("again")
    waiting.join(PATIENCE_S)
    assert order == ["waited", "again"]


def test_it_is_released_by_an_error():
    lock = FairLock()
    try:
        with lock:
            raise KeyError
    except KeyError:
        pass
    with lock:
        assert True
