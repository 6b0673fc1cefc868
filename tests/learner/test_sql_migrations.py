"""Logs that an older version has written."""

import sqlite3

from alembic import command
from sqlalchemy import text

from learner.event_log import Genesis
from learner.events import Outcome
from learner.sql import migrate
from learner.sql.database import Database
from learner.sql.migrate import VERSION_TABLE, newest_revision
from learner.view_json import view_to_json

from .logs import VIEW, commit, comparable, decision, open_log, reward


def write_old(url, path, monkeypatch):
    """A log of revision 0001, with a decision and its rewards as that version wrote them."""
    monkeypatch.setattr(migrate, "newest_revision", lambda: "0001")
    upgrade = command.upgrade
    monkeypatch.setattr(migrate.command, "upgrade", lambda config, _: upgrade(config, "0001"))
    database = Database(url)
    with database.write() as old:
        migrate.migrate(old, "it")
        columns = "id, uuid, application, fingerprint, dim, created_s, genesis_view, genesis_seed"
        values = "1, 'u', 'app', 'tiny', 4, 0, :view, 9"
        old.execute(text(f"INSERT INTO log ({columns}) VALUES ({values})"), {"view": view_to_json(VIEW).decode()})
        old.execute(text("INSERT INTO writer VALUES (1, 0, '', 0, 0)"))
    database.dispose()
    monkeypatch.undo()
    connection = sqlite3.connect(path)
    assert connection.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchall() == [("0001",)]
    names = [row[1] for row in connection.execute("PRAGMA table_info(rewards)")]
    assert "weight" not in names
    with connection:
        connection.execute("INSERT INTO events VALUES (1, 1, 1, 'reward', 2.0)")
        for position, (uid, value) in enumerate(((2, 0.75), (0, 0.1))):
            connection.execute(
                "INSERT INTO rewards VALUES (1, ?, ?, NULL, 'r-1', ?, 'anonymous', 'learned', 0)",
                (uid, position, value),
            )
        connection.execute("INSERT INTO message_embeddings VALUES (1, ?)", (reward(1).embedding.tobytes(),))
        connection.execute("UPDATE log SET last_seq = 1, last_time_s = 2.0")
    connection.close()


def test_a_log_of_the_first_schema_is_upgraded_when_it_is_opened_and_says_what_it_said(tmp_path, monkeypatch):
    path = tmp_path / "events.db"
    url = f"sqlite:///{path}"
    write_old(url, path, monkeypatch)
    log = open_log(url)
    assert log.genesis == Genesis(VIEW, 9, None)
    [[event]] = log.batches(0)
    assert comparable(event) == comparable(reward(1))
    commit(log, decision("d"), reward(2, "d", weights=(0.5, 1.0), expected=(0.25, None)), at_s=3.0)
    commit(log, reward(3, outcome=Outcome.QUARANTINED), at_s=3.0)
    assert [one.weights for [one] in log.batches(0)] == [(), (0.5, 1.0), ()]
    assert [seq.seq for _, seq in log.reported_since(2.5, 10)] == [2, 3]
    log.close()
    database = Database(url)
    with database.read() as connection:
        assert migrate.current_revision(connection, "it") == newest_revision() == "0003"
    database.dispose()
