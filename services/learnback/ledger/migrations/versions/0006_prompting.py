"""What a prompt strategy put around a prompt"""

import sqlalchemy as sa
from alembic import op

from learnback.ledger.types import Json

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("completions", sa.Column("prompting", Json, nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("completions", schema=None) as batch_op:
        batch_op.drop_column("prompting")
