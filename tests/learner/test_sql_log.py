"""What logs in a database promise beyond what every log does."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import event, text

from learner.errors import FencedError, LogError, WrongLogError
from learner.event_log import Commit, EventLog, Genesis
from learner.events import Action, OperatorEvent, Outcome, Publish, ResyncEvent
from learner.sql import batches as batch_reading
from learner.sql import pruning, read_sql_log, reader
from learner.sql.database import Database

from .logs import VIEW, batches, commit, comparable, decision, open_log, places, prune_all, reward

TABLES = ("decisions", "events", "rewards", "message_embeddings", "resyncs", "operator_actions", "publishes")


@pytest.fixture
def log(log_url, opened):
    return opened(log_url)


def counts(url):
    """How many rows each table has."""
    database = Database(url)
    with database.read() as connection:
        found = {table: connection.execute(text(f"SELECT count(*) FROM {table}")).scalar() for table in TABLES}
    database.dispose()
    return found


def published(url):
    """Which versions of which epochs are noted as published."""
    database = Database(url)
    with database.read() as connection:
        found = connection.execute(text("SELECT epoch, version FROM publishes ORDER BY epoch, version")).fetchall()
    database.dispose()
    return [tuple(row) for row in found]


def fill(log):
    """Something of everything: seqs 1 to 5, in batches up to 2 and 5."""
    commit(log, decision("d"), decision("e"), reward(1, "d", batch=2), reward(2, batch=2), at_s=1.0)
    commit(
        log,
        ResyncEvent(VIEW, 5, seq=3, batch=5),
        OperatorEvent(Action.ROLLBACK, "op", {"version": 2}, seq=4, batch=5),
        reward(5, "e", batch=5),
        decision("f"),
        at_s=2.0,
        publishes=[Publish(2, 1.5)],
        defaults_until=1,
    )


def test_everything_is_there_after_reopening(log, log_url, opened):
    log.begin(Genesis(VIEW, 9))
    fill(log)
    kept, known, chosen = batches(log), log.find(["d", "e", "f"], ["r-2"]), list(log.chosen_after(0))
    due = log.unrewarded(9.0, 9)
    log.close()
    again = opened(log_url)
    assert again.id == log.id
    assert again.epoch == log.epoch + 1
    assert (again.last_seq, again.last_time_s, again.decisions_count()) == (5, 2.0, 3)
    assert again.genesis == Genesis(VIEW, 9)
    assert batches(again) == kept
    assert again.find(["d", "e", "f"], ["r-2"]) == known
    assert list(again.chosen_after(0)) == chosen
    assert again.unrewarded(9.0, 9) == due != chosen


def test_a_log_begins_once(log, log_url):
    log.begin(Genesis(VIEW, 9))
    with pytest.raises(ValueError, match="a log begins once"):
        log.begin(Genesis(VIEW, 10))


def test_rows_lie_where_the_schema_says(log, log_url):
    fill(log)
    assert counts(log_url) == {
        "decisions": 3,
        "events": 5,
        "rewards": 6,
        "message_embeddings": 1,
        "resyncs": 1,
        "operator_actions": 1,
        "publishes": 1,
    }


def test_a_commit_that_is_refused_writes_nothing(log, log_url):
    fill(log)
    before = counts(log_url)
    for entries in (
        [decision("new"), reward(6), reward(8)],
        [decision("new"), reward(6, rewards=(0.5, float("nan")))],
        [decision("new"), reward(6, uids=(), rewards=())],
        [decision("new", embedding=reward(1).embedding[:3])],
    ):
        with pytest.raises(ValueError, match=r"place is 7|finite|shape"):
            commit(log, *entries)
    # The second of these would be a second report of one reward, which the learner never makes.
    with pytest.raises(LogError, match="refused"):
        commit(log, decision("new"), reward(6), reward(7, "d"))
    assert counts(log_url) == before
    assert log.last_seq == 5
    commit(log, reward(6))
    assert log.last_seq == 6


def test_one_pass_reads_pages_of_events_and_splits_no_batch(log, monkeypatch):
    sizes = [1, 4, 2, 3, 3, 1, 7, 1]
    expected, seq = [], 0
    for size in sizes:
        expected.append(list(range(seq + 1, seq + size + 1)))
        commit(log, *(reward(place, batch=seq + size) for place in expected[-1]))
        seq += size
    for page in (1, 2, 3, 4, 5, 22, 23):
        monkeypatch.setattr(batch_reading, "PAGE", page)
        assert places(log) == expected
        assert places(log, 5, 13) == expected[2:5]


def test_a_replay_reads_a_page_at_a_time(log, monkeypatch):
    monkeypatch.setattr(batch_reading, "PAGE", 2)
    commit(log, *(reward(seq) for seq in range(1, 10)))
    replay = log.batches(0)
    next(replay)
    # What comes after the page that was read is read later, when it is wanted.
    log.prune(upto=9, before_s=9.0, keep=[])
    assert len(list(replay)) == 1


def test_events_are_read_at_one_moment(log):
    commit(log, *(reward(seq) for seq in range(1, 4)))
    expected, pruned = batches(log), []

    def prune(_connection, _cursor, statement, *_):
        if "FROM rewards" in statement and not pruned:
            pruned.append(True)
            pruned.append(log.prune(upto=3, before_s=9.0, keep=[]))

    event.listen(log._database._engine, "before_cursor_execute", prune)
    assert batches(log) == expected
    assert pruned == [True, 3 * 4]
    assert batches(log) == []


def test_what_decisions_chose_is_read_in_pages(log, monkeypatch):
    monkeypatch.setattr(reader, "PAGE", 2)
    commit(log, *(decision(f"d-{number}") for number in range(5)))
    assert [chosen.row for chosen in log.chosen_after(0)] == [1, 2, 3, 4, 5]
    assert [chosen.row for chosen in log.chosen_after(1)] == [2, 3, 4, 5]


def test_pruning_drops_old_events_with_all_their_parts_and_the_decisions_that_only_they_needed(log, log_url):
    fill(log)
    assert log.prune(upto=2, before_s=1.0, keep=[]) == 0
    # Events 1 and 2, their 4 rewards, 1 embedding, decision d, and what was published at 1.5.
    assert sum(prune_all(log, upto=2, before_s=2.0)) == 9
    assert places(log) == [[3, 4, 5]]
    assert log.first_seq() == 3
    assert set(log.find(["d", "e", "f"], [])[0]) == {"e", "f"}
    assert prune_all(log, upto=2) == [1]  # decision f, which nobody rewarded
    assert sum(prune_all(log, upto=5)) == 8
    assert counts(log_url) == dict.fromkeys(TABLES, 0)
    assert prune_all(log, upto=5) == []


def test_pruning_spares_what_is_to_be_kept_and_its_decision(log):
    fill(log)
    prune_all(log, upto=5, keep=[1, 4, 77])
    assert places(log) == [[1], [4]]
    assert [event.embedding is not None for event in log.reward_events([1])] == [True]
    assert set(log.find(["d", "e", "f"], [])[0]) == {"d"}
    assert log.first_seq() == 1
    prune_all(log, upto=5)
    assert log.first_seq() == 6


def test_pruning_takes_a_bounded_number_of_rows_at_a_time(log, monkeypatch):
    monkeypatch.setattr(pruning, "PRUNE_ROWS", 2)
    commit(log, *(decision(f"d-{number}") for number in range(5)), *(reward(seq) for seq in range(1, 6)))
    # An event for a message is one row of events, two of rewards and one of embeddings.
    assert prune_all(log, upto=5, keep=[1]) == [4, 2 * 4, 4, 2, 2, 1]
    assert places(log) == [[1]]


def test_what_is_kept_is_looked_at_once_and_in_no_transaction_that_writes(log, monkeypatch):
    """Of 40 old events and their decisions every fourth may go, and nothing of the first half."""
    monkeypatch.setattr(pruning, "PRUNE_ROWS", 4)
    seqs = range(1, 41)
    commit(log, *(decision(f"d-{seq}") for seq in seqs), *(reward(seq, f"d-{seq}") for seq in seqs))
    gone = [seq for seq in seqs if seq > 20 and seq % 4 == 0]
    read, written = [], []
    listen(log, read, written)
    assert prune_all(log, upto=40, keep=[seq for seq in seqs if seq not in gone]) == [3] * 5 + [1] * 5
    # Each page of 4 once, and for each later step once more to see that there is no other.
    assert sum("FROM events" in statement for statement in read) == len(seqs) / 4 + 6
    assert sum("FROM decisions" in statement for statement in read) == len(seqs) / 4 + 1
    assert not any("FROM events" in statement and statement.startswith("SELECT") for statement in written)
    assert [seq for [seq] in places(log)] == [seq for seq in seqs if seq not in gone]


def test_who_asks_for_something_else_half_way_begins_at_the_oldest_again(log, monkeypatch):
    monkeypatch.setattr(pruning, "PRUNE_ROWS", 2)
    commit(log, *(reward(seq) for seq in range(1, 6)))
    assert log.prune(upto=5, before_s=9.0, keep=[1]) == 4
    prune_all(log, upto=5)
    assert log.first_seq() == 6


def test_a_decision_whose_reward_comes_while_it_is_being_pruned_stays(log):
    commit(log, decision("d"), decision("e"))

    @event.listens_for(log._database._engine, "after_cursor_execute")
    def report_late(_connection, _cursor, statement, *_):
        if "is_free" in statement and log.last_seq == 0:
            commit(log, reward(1, "d", outcome=Outcome.LATE), at_s=20.0)

    assert prune_all(log, upto=0) == [1]
    assert set(log.find(["d", "e"], [])[0]) == {"d"}


def listen(log, read, written):
    """Note the statements of transactions that read and of those that write."""

    @event.listens_for(log._database._engine, "before_cursor_execute")
    def note(connection, _cursor, statement, *_):
        writes = connection.get_execution_options().get("tidegate_writes")
        (written if writes else read).append(statement)


def test_what_was_published_long_ago_goes_a_little_at_a_time(log, log_url, opened, monkeypatch):
    monkeypatch.setattr(pruning, "PRUNE_ROWS", 3)
    commit(log, publishes=[Publish(version, float(version)) for version in (7, 8)])
    log.close()
    again = opened(log_url)
    commit(again, publishes=[Publish(version, float(version)) for version in (1, 2, 9, 10)])
    # Those of the first epoch, which reached higher versions; then those of the second that are older than 9.
    assert prune_all(again, upto=0) == [3, 1]
    assert published(log_url) == [(2, 9), (2, 10)]


def test_numbers_go_on_when_everything_was_pruned(log, log_url, opened):
    fill(log)
    prune_all(log, upto=5)
    commit(log, at_s=1.0)
    log.close()
    again = opened(log_url)
    assert (again.last_seq, again.first_seq(), again.decisions_count(), again.last_time_s) == (5, 6, 3, 2.0)
    commit(again, decision("g"), reward(6))
    assert next(again.chosen_after(0)).row == 4


def test_an_event_whose_decision_is_not_there_has_no_embedding(log):
    commit(log, reward(1, "unheard-of"))
    assert [event.embedding for event in log.reward_events([1])] == [None]
    assert log.find(["unheard-of"], []) == ({}, {})


def test_a_log_is_read_while_another_writes_it(log, log_url):
    log.begin(Genesis(VIEW, 9))
    fill(log)
    reader = read_sql_log(log_url)
    assert isinstance(reader, EventLog)
    assert (reader.id, reader.epoch, reader.last_seq, reader.genesis) == (log.id, 0, 5, log.genesis)
    commit(log, reward(6))
    assert batches(reader) == batches(log)
    assert comparable(reader.decision("d")) == comparable(log.decision("d"))
    reader.close()


def test_a_log_that_is_read_is_not_written(log, log_url):
    fill(log)
    reader = read_sql_log(log_url)
    for write in (
        lambda: reader.begin(Genesis(VIEW, 1)),
        lambda: reader.commit(Commit(1.0)),
        reader.renew,
        reader.refresh,
        lambda: reader.erase_embedding("d"),
        lambda: reader.prune(upto=5, before_s=9.0, keep=[]),
    ):
        with pytest.raises(LogError, match="open for reading only"):
            write()
    reader.close()
    log.renew()


def test_a_connection_for_reading_cannot_write(log, log_url):
    database = Database(log_url, read_only=True)
    with pytest.raises(LogError), database.write() as connection:
        connection.execute(text("UPDATE writer SET epoch = 99"))
    database.dispose()


def test_reading_makes_nothing(log_url, tmp_path):
    with pytest.raises(LogError, match=r"there is no log at|holds no log"):
        read_sql_log(log_url)
    assert not list(tmp_path.iterdir())


def test_a_closed_log_writes_no_more(log, log_url, opened):
    log.close()
    log.close()
    with pytest.raises(LogError, match="closed"):
        commit(log, reward(1))


@pytest.mark.parametrize(
    "other", [{"application": "another"}, {"fingerprint": "large"}, {"dim": 8}], ids=lambda other: next(iter(other))
)
def test_the_log_of_another_application_or_encoder_is_refused(log, log_url, other):
    with pytest.raises(WrongLogError, match=r"application 'app' with encoder 'tiny' \(dimension 4\), expected"):
        open_log(log_url, **other)
    log.renew()


def test_embeddings_are_erased_and_events_pruned_while_another_thread_commits(log):
    kept = range(1, 21)
    commit(log, *(decision(f"d-{number}") for number in kept), *(reward(number, f"d-{number}") for number in kept))

    def tend(number):
        erased = log.erase_embedding(f"d-{number}")
        log.prune(upto=number * 3, before_s=9.0, keep=kept)
        return erased and sum(map(len, log.batches(0))) >= len(kept)

    with ThreadPoolExecutor(1) as thread:
        tended = thread.map(tend, kept)
        for seq in range(21, 61):
            commit(log, reward(seq))
        assert all(tended)
    assert log.last_seq == 60
    assert set(log.embeddings([f"d-{number}" for number in kept]).values()) == {None}


def test_a_writer_that_was_replaced_writes_nothing_by_any_way(log, log_url, opened):
    fill(log)
    later = opened(log_url)  # the same holder, started again
    before = counts(log_url)
    for write in (
        lambda: log.begin(Genesis(VIEW, 1)),
        lambda: commit(log, decision("x"), reward(6)),
        log.renew,
        log.refresh,
        lambda: log.erase_embedding("d"),
        lambda: log.prune(upto=5, before_s=9.0, keep=[]),
    ):
        with pytest.raises(FencedError, match=r"no longer .*\(epoch 1\): 'first' has taken it over with epoch 2"):
            write()
    assert counts(log_url) == before
    assert later.decision("d").embedding is not None
    assert later.genesis is None
    log.close()
    later.renew()
