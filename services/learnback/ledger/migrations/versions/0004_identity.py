"""The ledger has a name of its own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "identity",
        sa.Column("subject", sa.String(length=16), nullable=False),
        sa.Column("id", sa.String(length=96), nullable=False),
        sa.PrimaryKeyConstraint("subject", name=op.f("pk_identity")),
    )


def downgrade() -> None:
    op.drop_table("identity")
