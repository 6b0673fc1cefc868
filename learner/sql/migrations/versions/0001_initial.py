"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_Int = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _key(name: str) -> sa.Column[int]:
    return sa.Column(name, _Int, primary_key=True, autoincrement=False)


def upgrade() -> None:
    """From nothing to this schema."""
    _create_singletons()
    _create_decisions()
    _create_events()
    _create_rewards()
    _create_details()


def _create_singletons() -> None:
    op.create_table(
        "log",
        _key("id"),
        sa.Column("uuid", sa.Text, nullable=False),
        sa.Column("application", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("dim", sa.Integer, nullable=False),
        sa.Column("created_s", sa.Double, nullable=False),
        sa.Column("genesis_view", sa.Text),
        sa.Column("genesis_seed", _Int),
        sa.Column("last_seq", _Int, nullable=False, server_default="0"),
        sa.Column("last_time_s", sa.Double, nullable=False, server_default="0"),
        sa.Column("decisions_count", _Int, nullable=False, server_default="0"),
        sa.Column("defaults_until", _Int, nullable=False, server_default="0"),
    )
    op.create_table(
        "writer",
        _key("id"),
        sa.Column("epoch", _Int, nullable=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("renewals", _Int, nullable=False),
        sa.Column("expires_s", sa.Double, nullable=False),
    )


def _create_decisions() -> None:
    op.create_table(
        "decisions",
        _key("row"),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("received_s", sa.Double, nullable=False),
        sa.Column("made_s", sa.Double, nullable=False),
        sa.Column("epoch", _Int, nullable=False),
        sa.Column("version", _Int, nullable=False),
        sa.Column("embedding", sa.LargeBinary),
        sa.Column("uids", sa.Text, nullable=False),
        sa.Column("scores", sa.Text, nullable=False),
        sa.Column("propensities", sa.Text, nullable=False),
        sa.Column("hotkeys", sa.Text, nullable=False),
        sa.Column("candidates", sa.Integer, nullable=False),
        sa.Column("candidates_digest", sa.Text, nullable=False),
    )
    op.create_index("decisions_id", "decisions", ["id"], unique=True)
    op.create_index("decisions_received_s", "decisions", ["received_s"])


def _create_events() -> None:
    op.create_table(
        "events",
        _key("seq"),
        sa.Column("batch", _Int, nullable=False),
        sa.Column("epoch", _Int, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("logged_s", sa.Double, nullable=False),
    )
    op.create_index("events_batch", "events", ["batch"])


def _create_rewards() -> None:
    op.create_table(
        "rewards",
        _key("seq"),
        _key("uid"),
        sa.Column("position", sa.SmallInteger, nullable=False),
        sa.Column("decision_id", sa.Text),
        sa.Column("reward_id", sa.Text),
        sa.Column("reward", sa.Double, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("assumed", sa.SmallInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    for name in ("decision_id", "reward_id"):
        given = sa.text(f"{name} IS NOT NULL")
        columns = [name, "uid", "assumed"]
        op.create_index(f"rewards_{name}", "rewards", columns, unique=True, sqlite_where=given, postgresql_where=given)


def _create_details() -> None:
    op.create_table("message_embeddings", _key("seq"), sa.Column("embedding", sa.LargeBinary, nullable=False))
    op.create_table(
        "resyncs",
        _key("seq"),
        sa.Column("view", sa.Text, nullable=False),
        sa.Column("seed", _Int, nullable=False),
        sa.Column("on_hotkey_swap", sa.Text, nullable=False),
    )
    op.create_table(
        "operator_actions",
        _key("seq"),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("arguments", sa.Text, nullable=False),
    )
    op.create_table("publishes", _key("epoch"), _key("version"), sa.Column("published_s", sa.Double, nullable=False))
