"""Two answers to one request: one that nobody sees, or both side by side"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

SHARED = ("aliases", "alias_history")


def upgrade() -> None:
    for table in SHARED:
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.add_column(sa.Column("mirror", sa.Float(), server_default="0", nullable=False))
    with op.batch_alter_table("completions", schema=None) as batch_op:
        batch_op.add_column(sa.Column("pair", sa.String(length=96), nullable=True))
        batch_op.add_column(sa.Column("place", sa.Integer(), nullable=True))
        batch_op.create_index(batch_op.f("ix_completions_pair"), ["pair"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("completions", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_completions_pair"))
        batch_op.drop_column("place")
        batch_op.drop_column("pair")
    for table in SHARED:
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.drop_column("mirror")
