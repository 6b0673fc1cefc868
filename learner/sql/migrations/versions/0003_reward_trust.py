"""What a reward counts, and what it was held against."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Rewards that are in the log already count in full."""
    op.add_column("rewards", sa.Column("weight", sa.Double, nullable=False, server_default="1"))
    op.add_column("rewards", sa.Column("expected", sa.Double))
