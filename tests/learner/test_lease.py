"""Who may write a log, among several who want to."""

import contextlib
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from learner.errors import FencedError, LeaseHeldError
from learner.sql import connect, lease, read_sql_log
from learner.sql.database import Database
from learner.sql.lease import acquire

from .log_writer import LogWriter
from .logs import commit, open_log, places, reward

LEASE_S = 1.0


class Time:
    """A clock that goes on only when somebody sleeps; `wakes` is called then."""

    def __init__(self, wakes=lambda: None):
        self.now_s = 0.0
        self.wakes = wakes

    def monotonic(self):
        return self.now_s

    def sleep(self, duration_s):
        self.now_s += duration_s
        self.wakes()


@pytest.fixture
def database(log_url, opened):
    """Of a log that a learner called first has, for very long."""
    opened(log_url, lease_s=600.0)
    database = Database(log_url)
    yield database
    database.dispose()


def take(database, clock, **settings):
    given = {"holder": "second", "lease_s": 5.0, "patience_s": 60.0}
    return acquire(database, monotonic=clock.monotonic, sleep=clock.sleep, **{**given, **settings})


def write(database, statement):
    with database.write() as connection:
        connection.execute(text(statement))


def expires_in(database):
    with database.read() as connection:
        return connection.execute(text("SELECT expires_s FROM writer")).scalar() - time.time()


def test_the_claim_ends_on_the_database_s_clock(database):
    assert 590 < expires_in(database) < 610
    write(database, f"UPDATE writer SET expires_s = {time.time() - 5}")
    assert take(database, Time(), patience_s=0.0).epoch == 2
    assert 0 < expires_in(database) < 10


def test_a_claim_that_holds_is_waited_for_and_not_taken(database):
    clock = Time(lambda: write(database, "UPDATE writer SET renewals = renewals + 1"))
    with pytest.raises(LeaseHeldError, match=r"is written by 'first' \(epoch 1\), which is alive; stop it, or give"):
        take(database, clock, patience_s=12.0)
    assert 12.0 <= clock.now_s < 13.0


def test_a_claim_that_nobody_renews_ends_even_if_the_clock_was_set_back(database):
    clock = Time()
    assert take(database, clock).epoch == 2
    assert 5.0 <= clock.now_s < 6.0


def test_every_renewal_makes_those_who_wait_begin_again(database):
    def renew_a_few_times():
        if clock.now_s < 8.0:
            write(database, "UPDATE writer SET renewals = renewals + 1")

    clock = Time(renew_a_few_times)
    assert take(database, clock).epoch == 2
    assert 13.0 <= clock.now_s < 14.0


def test_the_same_holder_has_it_again_at_once(database):
    assert take(database, Time(), holder="first", patience_s=0.0).epoch == 2


def test_what_was_handed_over_is_taken_at_once(log_url, opened):
    opened(log_url, lease_s=600.0).close()
    assert opened(log_url, holder="second").epoch == 2


def test_a_commit_renews_the_claim(log_url, opened):
    log = opened(log_url, lease_s=600.0)
    database = Database(log_url)
    for renew in (log.renew, lambda: commit(log, reward(log.last_seq + 1)), log.refresh):
        write(database, "UPDATE writer SET expires_s = 1")
        renew()
        assert expires_in(database) > 590
    database.dispose()


def test_one_of_two_who_take_it_together_gets_it(database, log_url, monkeypatch):
    write(database, "UPDATE writer SET expires_s = 1")
    meeting, read = threading.Barrier(2), lease._read

    def read_together(database):
        seen = read(database)
        meeting.wait(30)
        return seen

    def take_part(number):
        other = Database(log_url)
        try:
            return take(other, Time(), holder=f"h-{number}", patience_s=0.0).epoch
        except LeaseHeldError:
            return None
        finally:
            other.dispose()

    monkeypatch.setattr(lease, "_read", read_together)
    with ThreadPoolExecutor(2) as threads:
        epochs = list(threads.map(take_part, range(2)))
    assert sorted(epochs, key=bool) == [None, 2]


def test_a_claim_that_was_renewed_at_the_last_moment_holds(log_url, opened, database, monkeypatch):
    read = lease._read

    def read_and_renew(database):
        seen = read(database)
        write(database, f"UPDATE writer SET renewals = renewals + 1, expires_s = {time.time() + 60}")
        return seen

    write(database, "UPDATE writer SET expires_s = 1")
    monkeypatch.setattr(lease, "_read", read_and_renew)
    with pytest.raises(LeaseHeldError):
        take(database, Time(), patience_s=0.0)


def test_a_claim_within_somebody_s_transaction_is_waited_for(database, log_url, monkeypatch):
    write(database, "UPDATE writer SET expires_s = 1")
    monkeypatch.setattr(connect, "BUSY_S", 0.1)
    monkeypatch.setitem(connect._SESSION, "lock_timeout", "100ms")
    impatient = Database(log_url)
    with contextlib.ExitStack() as transaction:
        transaction.enter_context(database.write()).execute(text("UPDATE writer SET holder = 'somebody'"))
        clock = Time(transaction.close)
        assert take(impatient, clock).epoch == 2
    assert clock.now_s > 0
    impatient.dispose()


def test_a_log_is_made_once_by_all_who_open_it_together(log_url):
    with ThreadPoolExecutor(4) as threads:
        logs = list(threads.map(lambda _: open_log(log_url, patience_s=30.0), range(4)))
    assert len({log.id for log in logs}) == 1
    assert sorted(log.epoch for log in logs) == [1, 2, 3, 4]
    for log in logs:
        log.close()


@pytest.fixture
def writers(log_url):
    """Two processes that have not opened the log yet."""
    both = [LogWriter(log_url, holder=holder, lease_s=LEASE_S, patience_s=60.0) for holder in ("one", "two")]
    assert [writer.answer() for writer in both] == ["ready", "ready"]
    yield both
    for writer in both:
        writer.end()


def test_a_process_takes_over_from_one_that_died_and_from_one_that_hangs(writers, log_url):
    first, second = writers
    assert first.ask("open") == "epoch 1"
    assert first.ask("commit") == "last 1"
    first.signal(signal.SIGSTOP)
    started = time.monotonic()
    assert second.ask("open") == "epoch 2"
    assert time.monotonic() - started < LEASE_S + 1.0
    first.signal(signal.SIGCONT)
    assert first.ask("commit") == "FencedError"
    assert second.ask("commit") == "last 2"
    assert second.ask("close") == "closed"

    started = time.monotonic()
    assert first.ask("open") == "epoch 3"
    assert time.monotonic() - started < LEASE_S
    assert first.ask("commit") == "last 3"
    first.signal(signal.SIGKILL)
    started = time.monotonic()
    assert second.ask("open") == "epoch 4"
    assert time.monotonic() - started < LEASE_S + 1.0

    reader = read_sql_log(log_url)
    assert places(reader) == [[1], [2], [3]]
    reader.close()


def test_a_process_waits_for_one_that_lives(writers, log_url):
    first, second = writers
    assert first.ask("open") == "epoch 1"
    second.tell("open")
    until = time.monotonic() + 2 * LEASE_S
    while time.monotonic() < until:
        assert first.ask("commit").startswith("last")
    assert first.ask("close") == "closed"
    assert second.answer() == "epoch 2"


def test_a_log_that_was_taken_over_says_by_whom(log_url, opened):
    log = opened(log_url)
    database = Database(log_url)
    write(database, "UPDATE writer SET epoch = 8, holder = 'it''s me'")
    with pytest.raises(FencedError, match=r"\(epoch 1\): \"it's me\" has taken it over with epoch 8"):
        log.renew()
    database.dispose()
