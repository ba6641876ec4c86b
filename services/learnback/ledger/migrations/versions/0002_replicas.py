"""Replicas say what they have loaded"""

import sqlalchemy as sa
from alembic import op

from learnback.ledger.types import Json, UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "replicas",
        sa.Column("id", sa.String(length=200), nullable=False),
        sa.Column("base_digest", sa.String(length=64), nullable=False),
        sa.Column("serving", sa.Boolean(), nullable=False),
        sa.Column("versions", Json, nullable=False),
        sa.Column("seen_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_replicas")),
    )
    with op.batch_alter_table("releases", schema=None) as batch_op:
        batch_op.add_column(sa.Column("loading_since", UtcDateTime(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("releases", schema=None) as batch_op:
        batch_op.drop_column("loading_since")
    op.drop_table("replicas")
