"""Both answers to each held-out prompt of an evaluation, for its report.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from learnback.ledger.types import Json

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "evaluation_answers",
        sa.Column("version", sa.String(length=200), nullable=False),
        sa.Column("prompt_key", sa.String(length=64), nullable=False),
        sa.Column("prompt", Json, nullable=False),
        sa.Column("candidate", sa.Text(), nullable=False),
        sa.Column("stable", sa.Text(), nullable=False),
        sa.Column("candidate_reward", sa.Float(), nullable=False),
        sa.Column("stable_reward", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("version", "prompt_key", name=op.f("pk_evaluation_answers")),
    )
    op.create_index(op.f("ix_evaluation_answers_prompt_key"), "evaluation_answers", ["prompt_key"])


def downgrade() -> None:
    op.drop_index(op.f("ix_evaluation_answers_prompt_key"), "evaluation_answers")
    op.drop_table("evaluation_answers")
