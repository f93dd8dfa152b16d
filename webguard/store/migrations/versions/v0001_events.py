"""Begin: the events, and what there is to say about the record itself."""

import time

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "events",
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column("id", sa.String, nullable=False, unique=True),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("severity", sa.Integer, nullable=False),
        sa.Column("subject", sa.String, nullable=False),
        sa.Column("container_id", sa.String, nullable=False),
        sa.Column("container_name", sa.String, nullable=False),
        sa.Column("outcome", sa.String, nullable=False),
        sa.Column("event", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("events_at", "events", ["at"])
    meta = op.create_table(
        "meta",
        sa.Column("key", sa.String, primary_key=True),
        sa.Column("value", sa.String, nullable=False),
    )
    op.bulk_insert(meta, [{"key": "begun", "value": str(time.time_ns())}])
