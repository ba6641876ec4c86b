"""A promoted version is watched for a while beside the one before it"""

import sqlalchemy as sa
from alembic import op

from learnback.ledger.types import UtcDateTime

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("releases", schema=None) as batch_op:
        batch_op.add_column(sa.Column("watched_since", UtcDateTime(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("releases", schema=None) as batch_op:
        batch_op.drop_column("watched_since")
