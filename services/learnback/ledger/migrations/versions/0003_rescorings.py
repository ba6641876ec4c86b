"""Wishes that old completions be scored by a reward model"""

import sqlalchemy as sa
from alembic import op

from learnback.ledger.types import Json, UtcDateTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "rescorings",
        sa.Column("id", sa.String(length=96), nullable=False),
        sa.Column("reward_model", sa.String(length=200), nullable=False),
        sa.Column("since", UtcDateTime(), nullable=True),
        sa.Column("completion_ids", Json, nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("asked_by", sa.String(length=200), nullable=False),
        sa.Column("asked_at", UtcDateTime(), nullable=False),
        sa.Column("position", sa.String(length=96), nullable=False),
        sa.Column("scored", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("changed_at", UtcDateTime(), nullable=False),
        sa.CheckConstraint(
            "state in ('asked','running','done','failed')", name=op.f("ck_rescorings_state")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rescorings")),
    )
    with op.batch_alter_table("rescorings", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_rescorings_state_asked_at"), ["state", "asked_at"], unique=False
        )


def downgrade() -> None:
    with op.batch_alter_table("rescorings", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_rescorings_state_asked_at"))

    op.drop_table("rescorings")
