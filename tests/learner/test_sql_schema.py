import logging

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, text

from learner.errors import LogSchemaError
from learner.sql import read_sql_log
from learner.sql.database import Database
from learner.sql.migrate import VERSION_TABLE, current_revision, newest_revision
from learner.sql.schema import metadata

from .logs import open_log

OPTIONS = {"version_table": VERSION_TABLE, "compare_server_default": True}


@pytest.fixture
def database(log_url, opened):
    opened(log_url)
    database = Database(log_url)
    yield database
    database.dispose()


def test_the_migrations_make_the_schema_that_the_code_works_with(database):
    with database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection, opts=OPTIONS), metadata) == []
        assert current_revision(connection, database.name) == newest_revision()


def test_the_comparison_sees_what_is_missing(database):
    with database.write() as connection:
        connection.execute(text("DROP INDEX events_batch"))
        connection.execute(text("ALTER TABLE publishes DROP COLUMN published_s"))
    with database.read() as connection:
        differences = compare_metadata(MigrationContext.configure(connection, opts=OPTIONS), metadata)
    assert {difference[0] for difference in differences} == {"add_index", "add_column"}


def test_an_index_holds_a_reward_to_one_report_a_uid(database):
    with database.read() as connection:
        indexes = {index["name"]: index for index in inspect(connection).get_indexes("rewards")}
    for name in ("decision_id", "reward_id"):
        assert indexes[f"rewards_{name}"]["unique"]
        assert indexes[f"rewards_{name}"]["column_names"] == [name, "uid", "assumed"]


def test_a_schema_of_a_newer_version_is_refused(database, log_url):
    with database.write() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    for opening in (open_log, read_sql_log):
        with pytest.raises(LogSchemaError, match=r"schema '9999', and the newest .* is '0003'; upgrade Tidegate"):
            opening(log_url)


def test_opening_leaves_logging_as_it_was_and_prints_nothing(log_url, opened, capfd):
    before = logging.root.level, list(logging.root.handlers), logging.getLogger("alembic").level
    opened(log_url)
    assert (logging.root.level, list(logging.root.handlers), logging.getLogger("alembic").level) == before
    assert capfd.readouterr() == ("", "")
