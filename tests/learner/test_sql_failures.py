"""What a log in a database says when the database does not do what it should."""

import contextlib
import pickle
import re
import signal
import socket
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import psutil
import psycopg
import pytest
from psycopg import errors
from sqlalchemy import event, exc, text

from learner.errors import LogCorruptError, LogError, LogUnavailableError, WrongLogError
from learner.sql import connect, read_sql_log
from learner.sql.database import Database
from learner.sql.errors import as_log_error

from .logs import commit, decision, open_log, places, reward

SECRET = "s3cr3t"


@pytest.fixture
def log(log_url, opened):
    return opened(log_url)


@pytest.fixture
def sqlite_url(tmp_path):
    return f"sqlite:///{tmp_path}/events.db"


@pytest.fixture
def postgres_url(postgres_server):
    return postgres_server.create_schema()


@pytest.fixture
def closed_port():
    """A port that nothing listens at."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@pytest.fixture
def silent_port():
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def every_connection(log, statement):
    """Run the statement on each connection of a SQLite log before it is used; returns how to stop doing so."""

    def run(connection, *_):
        connection.execute(statement)

    event.listen(log._database._engine, "checkout", run)
    return lambda: event.remove(log._database._engine, "checkout", run)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "memory",
        "mysql://h/d",
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite:///file:x?uri=true",
        "sqlite:///x?mode=ro",
        "sqlite://host/x",
        "postgresql+psycopg2://h/d",
        "postgresql://h:port/d",
    ],
)
def test_a_url_that_cannot_be_is_refused_with_those_that_can(url):
    for opening in (open_log, read_sql_log):
        with pytest.raises(LogError, match=r"possible are sqlite:///PATH .* postgresql://USER@HOST/DATABASE, and"):
            opening(url)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:{secret}@127.0.0.1:{port}/d",
        "postgresql://u@127.0.0.1:{port}/d?password={secret}",
        "postgresql://u:{secret}@127.0.0.1:p{port}/d",
        "mysql://u:{secret}@h/d",
        "postgresql://u@127.0.0.1:{port}/{secret}?password={secret}",
    ],
)
def test_a_password_is_in_no_message(url, closed_port, caplog):
    with pytest.raises(LogError) as failure:
        open_log(url.format(secret=SECRET, port=closed_port))
    assert failure.value.args[0]
    assert SECRET not in failure.value.args[0].replace(f"/{SECRET} ", "/d ")
    assert SECRET not in caplog.text


def test_what_was_to_be_written_is_in_no_message(log):
    commit(log, reward(1, "d", author=SECRET))
    with pytest.raises(LogError) as failure:
        commit(log, reward(2, "d", author=SECRET))
    assert SECRET not in str(failure.value.__cause__)


def test_a_relative_path_starts_in_the_working_folder_which_is_made(tmp_path, monkeypatch, opened):
    monkeypatch.chdir(tmp_path)
    opened("sqlite:///a%3F b/c#d/events.db")
    assert [path.name for path in tmp_path.glob("*/c#d/events.db")] == ["events.db"]


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LogUnavailableError, match=r"cannot make the folder .*file/folder: Not a directory"):
        open_log(f"sqlite:///{tmp_path}/file/folder/events.db")
    with pytest.raises(LogUnavailableError, match="unable to open database file"):
        open_log(f"sqlite:///{tmp_path}")


def test_a_file_that_is_no_database_is_said(tmp_path, sqlite_url):
    (tmp_path / "events.db").write_bytes(b"nothing of the kind\n" * 1000)
    for opening in (open_log, read_sql_log):
        with pytest.raises(LogCorruptError, match=r"events.db is damaged, or is no database: file is not a database"):
            opening(sqlite_url)


def test_a_database_that_was_cut_off_is_said(tmp_path, sqlite_url):
    log = open_log(sqlite_url)
    commit(log, *(decision(f"d-{number}") for number in range(500)), *(reward(seq) for seq in range(1, 501)))
    log.close()
    path = tmp_path / "events.db"
    path.write_bytes(path.read_bytes()[: 4096 * 24])

    def read_all():
        with contextlib.closing(open_log(sqlite_url)) as again:
            return list(again.batches(0)), list(again.chosen_after(0))

    with pytest.raises(LogCorruptError, match="malformed"):
        read_all()


def test_a_full_disk_loses_nothing_and_stops_nothing_that_was_there(sqlite_url, opened):
    log = opened(sqlite_url)
    commit(log, decision("d"), reward(1, "d"))
    relieve = every_connection(log, "PRAGMA max_page_count = 1")
    many = [decision(f"d-{number}") for number in range(2000)]
    with pytest.raises(LogUnavailableError, match=r"events.db does not answer, or cannot write: .* full"):
        commit(log, *many, reward(2))
    assert log.last_seq == 1
    log.refresh()
    assert (log.last_seq, places(log), log.decisions_count()) == (1, [[1]], 1)
    relieve()
    log.refresh()
    commit(log, *many, reward(2))
    assert (log.last_seq, log.decisions_count()) == (2, 2001)


def test_a_database_that_may_not_be_written_is_said(sqlite_url, opened):
    log = opened(sqlite_url)
    relieve = every_connection(log, "PRAGMA query_only = ON")
    for write in (lambda: commit(log, reward(1)), log.renew, log.refresh, lambda: log.erase_embedding("d")):
        with pytest.raises(LogUnavailableError, match="readonly"):
            write()
    relieve()
    log.refresh()
    log.renew()


def test_a_database_that_another_program_has_locked_is_said(sqlite_url, opened, monkeypatch):
    monkeypatch.setattr(connect, "BUSY_S", 0.1)
    log = opened(sqlite_url)
    with contextlib.closing(sqlite3.connect(log._database.name.removeprefix("sqlite:///"))) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LogUnavailableError, match="locked"):
            commit(log, reward(1))
        assert places(log) == []
    commit(log, reward(1))


def test_threads_of_one_process_wait_for_each_other_however_long_it_takes(sqlite_url, opened, monkeypatch):
    monkeypatch.setattr(connect, "BUSY_S", 0.0)
    log = opened(sqlite_url)
    with ThreadPoolExecutor(1) as thread:
        with log._database.write():
            renewed = thread.submit(log.renew)
            assert not wait([renewed], timeout=0.2).done
        renewed.result()


@pytest.mark.parametrize("was_lost", ["commit", "answer"])
def test_after_a_commit_that_failed_the_log_tells_whether_it_took_place(log, log_url, was_lost, monkeypatch):
    dialect = log._database._engine.dialect
    finish = dialect.do_commit

    def fail(connection):
        if was_lost == "answer":
            finish(connection)
        connection.dbapi_connection.close()
        raise dialect.loaded_dbapi.OperationalError("connection lost")

    monkeypatch.setattr(dialect, "do_commit", fail)
    with pytest.raises(LogError):
        commit(log, decision("d"), reward(1, "d"))
    monkeypatch.undo()
    assert log.last_seq == 0
    log.refresh()
    took_place = was_lost == "answer"
    assert (log.last_seq, log.decisions_count()) == ((1, 1) if took_place else (0, 0))
    commit(log, decision("e"), reward(log.last_seq + 1))
    assert places(log) == ([[1], [2]] if took_place else [[1]])
    assert [chosen.row for chosen in log.chosen_after(0)] == ([1, 2] if took_place else [1])


def test_a_commit_that_the_server_is_still_at_is_waited_for(postgres_server, postgres_url, opened):
    log = opened(postgres_url)
    lost = Database(postgres_url)
    waiting = "SELECT pid FROM pg_stat_activity WHERE application_name = 'tidegate' AND wait_event_type = 'Lock'"
    with ThreadPoolExecutor(1) as thread:
        with lost.write() as connection:
            log._lease.fence(connection)
            connection.execute(text("UPDATE log SET last_seq = 1"))
            refreshed = thread.submit(log.refresh)
            while not postgres_server.execute(waiting) and not refreshed.done():
                pass
        refreshed.result()
    assert log.last_seq == 1
    lost.dispose()


def test_a_connection_that_is_killed_in_a_commit_is_replaced(postgres_server, postgres_url, opened):
    log = opened(postgres_url)
    commit(log, reward(1))
    backends = "FROM pg_stat_activity WHERE application_name = 'tidegate'"

    def terminate(connection, cursor, statement, *_):
        if statement.startswith("INSERT INTO rewards"):
            assert postgres_server.execute(f"SELECT pg_terminate_backend(pid, 5000) {backends}")

    engine = log._database._engine
    event.listen(engine, "before_cursor_execute", terminate)
    with pytest.raises(LogUnavailableError, match=r"terminating connection|closed the connection"):
        commit(log, reward(2))
    event.remove(engine, "before_cursor_execute", terminate)
    log.refresh()
    assert log.last_seq == 1
    commit(log, reward(2))
    assert places(log) == [[1], [2]]


def test_connections_that_the_server_has_closed_meanwhile_are_replaced(postgres_server, postgres_url, opened):
    log = opened(postgres_url)
    for use in (lambda: commit(log, reward(1)), lambda: places(log)):
        use()
        backends = "FROM pg_stat_activity WHERE application_name = 'tidegate'"
        assert postgres_server.execute(f"SELECT pg_terminate_backend(pid, 5000) {backends}")
        assert places(log) == [[1]]
        log.renew()


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_server_that_was_away_is_found_again(postgres_server, postgres_url, opened, how):
    log = opened(postgres_url)
    commit(log, decision("d"), reward(1, "d"))
    getattr(postgres_server, how)()
    try:
        for use in (lambda: commit(log, reward(2)), log.renew, log.refresh, lambda: places(log)):
            with pytest.raises(LogUnavailableError, match="does not answer"):
                use()
        with pytest.raises(LogUnavailableError):
            open_log(postgres_url)
    finally:
        postgres_server.start()
    log.refresh()
    assert places(log) == [[1]]
    commit(log, reward(2))


def test_a_server_that_hangs_is_given_up(postgres_server, postgres_url, opened, monkeypatch):
    monkeypatch.setattr(connect, "ANSWER_S", 1.0)
    monkeypatch.setitem(connect._LIBPQ, "connect_timeout", 2)
    log = opened(postgres_url)
    commit(log, reward(1))
    main = psutil.Process(postgres_server.pid)
    processes = [main, *main.children(recursive=True)]
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        started = time.monotonic()
        with pytest.raises(LogUnavailableError, match="silent for 1 s"):
            commit(log, reward(2))
        assert time.monotonic() - started < 2.0
        with pytest.raises(LogUnavailableError):
            log.refresh()
        log.close()
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)
    again = opened(postgres_url)
    commit(again, reward(again.last_seq + 1))


def test_a_server_that_is_not_there_is_said_at_once(closed_port):
    started = time.monotonic()
    for opening in (open_log, read_sql_log):
        with pytest.raises(LogUnavailableError, match=rf"postgresql://u@127.0.0.1:{closed_port}/d does not answer"):
            opening(f"postgresql://u@127.0.0.1:{closed_port}/d")
    assert time.monotonic() - started < 2.0


def test_a_server_that_never_answers_is_given_up(silent_port):
    started = time.monotonic()
    with pytest.raises(LogUnavailableError, match="timeout"):
        open_log(f"postgresql://u@127.0.0.1:{silent_port}/d")
    assert time.monotonic() - started < 6.5


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (("/postgres", "/nowhere"), LogUnavailableError, 'database "nowhere" does not exist'),
        (("tidegate@", "nobody@"), LogUnavailableError, 'role "nobody" does not exist'),
        (("%3Dschema", "%3Dno_schema"), LogError, "a schema that exists"),
        (("?options", "?colour=red&options"), LogError, "colour"),
    ],
)
def test_a_url_that_leads_nowhere_is_said(postgres_url, change, kind, said):
    with pytest.raises(kind, match=said):
        open_log(postgres_url.replace(*change))


def test_a_log_that_was_exchanged_is_not_taken_for_the_same(log, log_url):
    database = Database(log_url)
    with database.write() as connection:
        connection.execute(text("UPDATE log SET uuid = 'another'"))
    with pytest.raises(WrongLogError, match="is no longer the log"):
        log.refresh()
    with database.write() as connection:
        connection.execute(text("DROP TABLE events"))
    with pytest.raises(LogError, match="holds no log"):
        log.first_seq()
    database.dispose()


def test_a_log_of_an_older_version_is_not_migrated_by_who_only_reads_it(log, log_url):
    database = Database(log_url)
    with database.write() as connection:
        connection.execute(text("DELETE FROM tidegate_schema"))
    with pytest.raises(LogError, match="holds no log; name the log of a learner that has run"):
        read_sql_log(log_url)
    database.dispose()


def with_name(error, name):
    error.sqlite_errorname = name
    return error


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (errors.DiskFull(), LogUnavailableError),
        (errors.TooManyConnections(), LogUnavailableError),
        (errors.AdminShutdown(), LogUnavailableError),
        (errors.QueryCanceled(), LogUnavailableError),
        (errors.LockNotAvailable(), LogUnavailableError),
        (errors.DeadlockDetected(), LogUnavailableError),
        (errors.ReadOnlySqlTransaction(), LogUnavailableError),
        (errors.IdleInTransactionSessionTimeout(), LogUnavailableError),
        (errors.IoError(), LogUnavailableError),
        (errors.InsufficientPrivilege(), LogUnavailableError),
        (errors.DataCorrupted(), LogCorruptError),
        (errors.IndexCorrupted(), LogCorruptError),
        (errors.UniqueViolation(), LogError),
        (psycopg.OperationalError(), LogUnavailableError),
        (psycopg.InterfaceError(), LogUnavailableError),
        (psycopg.ProgrammingError(), LogError),
        (with_name(sqlite3.OperationalError(), "SQLITE_IOERR_FSYNC"), LogUnavailableError),
        (with_name(sqlite3.OperationalError(), "SQLITE_BUSY_SNAPSHOT"), LogUnavailableError),
        (with_name(sqlite3.OperationalError(), "SQLITE_READONLY_DBMOVED"), LogUnavailableError),
        (with_name(sqlite3.DatabaseError(), "SQLITE_CORRUPT_INDEX"), LogCorruptError),
        (with_name(sqlite3.IntegrityError(), "SQLITE_CONSTRAINT_UNIQUE"), LogError),
        (sqlite3.ProgrammingError(), LogError),
    ],
    ids=lambda value: getattr(value, "sqlite_errorname", None) or getattr(value, "__name__", type(value).__name__),
)
def test_every_error_has_its_kind(cause, kind):
    found = as_log_error(exc.DBAPIError("SELECT 1", {}, cause), "the database")
    assert type(found) is kind
    assert str(pickle.loads(pickle.dumps(found))) == str(found)
    assert re.match(r"the database (does not answer|is damaged|refused)", str(found))


def test_waiting_in_vain_for_a_connection_is_an_error_that_passes():
    assert type(as_log_error(exc.TimeoutError("no connection"), "it")) is LogUnavailableError


def test_an_acknowledged_commit_is_on_disk(log, log_url):
    with log._database.read() as connection:
        if log_url.startswith("sqlite"):
            settings = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in PRAGMAS}
            assert settings == PRAGMAS
        else:
            settings = {name: connection.exec_driver_sql(f"SHOW {name}").scalar() for name in SETTINGS}
            assert settings == SETTINGS


PRAGMAS = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "secure_delete": 1, "busy_timeout": 4000}
SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "application_name": "tidegate",
    "statement_timeout": "5s",
    "lock_timeout": "4s",
    "idle_in_transaction_session_timeout": "5s",
}


def test_an_erased_embedding_is_not_left_in_the_file(tmp_path, sqlite_url):
    log = open_log(sqlite_url)
    trace = decision("d").embedding.tobytes()
    commit(log, decision("d"))
    log.close()
    assert trace in (tmp_path / "events.db").read_bytes()
    log = open_log(sqlite_url)
    log.erase_embedding("d")
    log.close()
    assert not any(trace in path.read_bytes() for path in Path(tmp_path).iterdir())
