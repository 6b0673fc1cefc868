"""The tables of a log in a database. `migrations/` makes them, step by step; a test holds the two together.

Text that users choose is stored as `codec.to_text` writes it; what there are several of is a JSON array.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, Index, Integer, LargeBinary, MetaData, SmallInteger, Table, Text

metadata = MetaData()

_Int = BigInteger().with_variant(Integer(), "sqlite")
"""64 bits everywhere: SQLite's INTEGER is, and only that may stand for its row number."""


def _key(name: str) -> Column[int]:
    return Column(name, _Int, primary_key=True, autoincrement=False)


log = Table(
    "log",
    metadata,
    _key("id"),
    Column("uuid", Text, nullable=False),
    Column("application", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("dim", Integer, nullable=False),
    Column("created_s", Double, nullable=False),
    Column("genesis_view", Text),
    Column("genesis_seed", _Int),
    Column("genesis_rule", Text),
    Column("last_seq", _Int, nullable=False, server_default="0"),
    Column("last_time_s", Double, nullable=False, server_default="0"),
    Column("decisions_count", _Int, nullable=False, server_default="0"),
    Column("defaults_until", _Int, nullable=False, server_default="0"),
)
"""One row. What it counts outlives what is pruned."""

writer = Table(
    "writer",
    metadata,
    _key("id"),
    Column("epoch", _Int, nullable=False),
    Column("holder", Text, nullable=False),
    Column("renewals", _Int, nullable=False),
    Column("expires_s", Double, nullable=False),
)
"""One row: who may write, until when on the database's clock; 0 once handed over."""

decisions = Table(
    "decisions",
    metadata,
    _key("row"),
    Column("id", Text, nullable=False),
    Column("received_s", Double, nullable=False),
    Column("made_s", Double, nullable=False),
    Column("epoch", _Int, nullable=False),
    Column("version", _Int, nullable=False),
    Column("embedding", LargeBinary),
    Column("uids", Text, nullable=False),
    Column("scores", Text, nullable=False),
    Column("propensities", Text, nullable=False),
    Column("hotkeys", Text, nullable=False),
    Column("candidates", Integer, nullable=False),
    Column("candidates_digest", Text, nullable=False),
    Index("decisions_id", "id", unique=True),
    Index("decisions_received_s", "received_s"),
)
"""`embedding`: float16, little endian; NULL once erased."""

events = Table(
    "events",
    metadata,
    _key("seq"),
    Column("batch", _Int, nullable=False),
    Column("epoch", _Int, nullable=False),
    Column("kind", Text, nullable=False),
    Column("logged_s", Double, nullable=False),
    Index("events_batch", "batch"),
)
"""`kind` names the table that has the rest."""

rewards = Table(
    "rewards",
    metadata,
    _key("seq"),
    _key("uid"),
    Column("position", SmallInteger, nullable=False),
    Column("decision_id", Text),
    Column("reward_id", Text),
    Column("reward", Double, nullable=False),
    Column("author", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("assumed", SmallInteger, nullable=False),
    Column("weight", Double, nullable=False, server_default="1"),
    Column("expected", Double),
    sqlite_with_rowid=False,
)
"""A row for each uid of a reward event, in the order of `position`. `assumed` is 1 where the default reward stands for
a report that never came; one that comes all the same has a row of its own. `weight` is what the reward counts,
`expected` what reward trust held it against, NULL where it did not."""

for _name in ("decision_id", "reward_id"):
    _given = rewards.c[_name].is_not(None)
    Index(
        f"rewards_{_name}",
        rewards.c[_name],
        rewards.c.uid,
        rewards.c.assumed,
        unique=True,
        sqlite_where=_given,
        postgresql_where=_given,
    )

message_embeddings = Table(
    "message_embeddings", metadata, _key("seq"), Column("embedding", LargeBinary, nullable=False)
)
"""Of rewards for a message; other reward events have their decision's."""

resyncs = Table(
    "resyncs",
    metadata,
    _key("seq"),
    Column("view", Text, nullable=False),
    Column("seed", _Int, nullable=False),
    Column("on_hotkey_swap", Text, nullable=False),
)

operator_actions = Table(
    "operator_actions",
    metadata,
    _key("seq"),
    Column("action", Text, nullable=False),
    Column("author", Text, nullable=False),
    Column("arguments", Text, nullable=False),
)

publishes = Table("publishes", metadata, _key("epoch"), _key("version"), Column("published_s", Double, nullable=False))
