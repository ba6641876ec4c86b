"""The first schema"""

import sqlalchemy as sa
from alembic import op

from learnback.ledger.types import Json, UtcDateTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "alias_history",
        sa.Column("alias", sa.String(length=32), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("version", sa.String(length=200), nullable=True),
        sa.Column("previous", sa.String(length=200), nullable=True),
        sa.Column("weight", sa.Float(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("alias", "revision", name=op.f("pk_alias_history")),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(length=96), nullable=False),
        sa.Column("tenant", sa.String(length=200), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("scopes", Json, nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=True),
        sa.Column("revoked_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("digest", name=op.f("uq_api_keys_digest")),
    )
    op.create_table(
        "completions",
        sa.Column("id", sa.String(length=96), nullable=False),
        sa.Column("tenant", sa.String(length=200), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("endpoint", sa.String(length=32), nullable=False),
        sa.Column("version", sa.String(length=200), nullable=False),
        sa.Column("track", sa.String(length=16), nullable=False),
        sa.Column("probability", sa.Float(), nullable=False),
        sa.Column("end", sa.String(length=32), nullable=False),
        sa.Column("status_code", sa.Integer(), nullable=False),
        sa.Column("streamed", sa.Boolean(), nullable=False),
        sa.Column("stored", sa.Boolean(), nullable=False),
        sa.Column("prompt", Json, nullable=False),
        sa.Column("prompt_key", sa.String(length=64), nullable=False),
        sa.Column("choices", Json, nullable=False),
        sa.Column("parameters", Json, nullable=False),
        sa.Column("subject", sa.String(length=200), nullable=True),
        sa.Column("session", sa.String(length=200), nullable=True),
        sa.Column("metadata", Json, nullable=False),
        sa.Column("prompt_tokens", sa.Integer(), nullable=True),
        sa.Column("completion_tokens", sa.Integer(), nullable=True),
        sa.Column("first_byte_s", sa.Float(), nullable=True),
        sa.Column("duration_s", sa.Float(), nullable=False),
        sa.Column("recorded_at", UtcDateTime(), nullable=False),
        sa.Column("erased_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_completions")),
    )
    with op.batch_alter_table("completions", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_completions_tenant_created_at"), ["tenant", "created_at"], unique=False
        )
        batch_op.create_index(
            batch_op.f("ix_completions_tenant_session"), ["tenant", "session"], unique=False
        )
        batch_op.create_index(batch_op.f("ix_completions_created_at"), ["created_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_completions_version"), ["version"], unique=False)

    op.create_table(
        "feedback",
        sa.Column("id", sa.String(length=96), nullable=False),
        sa.Column("tenant", sa.String(length=200), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("status_reason", sa.Text(), nullable=True),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("completion_id", sa.String(length=96), nullable=True),
        sa.Column("choice", sa.Integer(), nullable=True),
        sa.Column("other_completion_id", sa.String(length=96), nullable=True),
        sa.Column("other_choice", sa.Integer(), nullable=True),
        sa.Column("session", sa.String(length=200), nullable=True),
        sa.Column("rater_id", sa.String(length=200), nullable=True),
        sa.Column("rater_kind", sa.String(length=16), nullable=False),
        sa.Column("body", Json, nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("received_at", UtcDateTime(), nullable=False),
        sa.Column("joined_at", UtcDateTime(), nullable=True),
        sa.Column("changed_at", UtcDateTime(), nullable=False),
        sa.Column("supersedes", sa.String(length=96), nullable=True),
        sa.Column("superseded_by", sa.String(length=96), nullable=True),
        sa.Column("run_id", sa.String(length=96), nullable=True),
        sa.Column("trained_version", sa.String(length=200), nullable=True),
        sa.CheckConstraint(
            "status in ('pending_target','accepted','trained','held_out','recorded','quarantined','superseded','withdrawn','expired','erased')",
            name=op.f("ck_feedback_status"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_feedback")),
    )
    with op.batch_alter_table("feedback", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_feedback_completion_id"), ["completion_id"], unique=False
        )
        batch_op.create_index(
            batch_op.f("ix_feedback_other_completion_id"), ["other_completion_id"], unique=False
        )
        batch_op.create_index(batch_op.f("ix_feedback_run_id"), ["run_id"], unique=False)
        batch_op.create_index(
            batch_op.f("ix_feedback_status_kind"), ["status", "kind"], unique=False
        )
        batch_op.create_index(
            batch_op.f("ix_feedback_tenant_received_at"), ["tenant", "received_at"], unique=False
        )

    op.create_table(
        "idempotency_keys",
        sa.Column("tenant", sa.String(length=200), nullable=False),
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("body_digest", sa.String(length=64), nullable=False),
        sa.Column("feedback_id", sa.String(length=96), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_table(
        "model_versions",
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("base", sa.String(length=200), nullable=False),
        sa.Column("base_digest", sa.String(length=64), nullable=False),
        sa.Column("parent", sa.String(length=200), nullable=True),
        sa.Column("artifact", sa.Text(), nullable=True),
        sa.Column("artifact_digest", sa.String(length=64), nullable=True),
        sa.Column("run_id", sa.String(length=96), nullable=True),
        sa.Column("dataset_fingerprint", sa.String(length=64), nullable=True),
        sa.Column("reward_model", sa.String(length=200), nullable=True),
        sa.Column("config", Json, nullable=False),
        sa.Column("seed", sa.Integer(), nullable=True),
        sa.Column("code_version", sa.String(length=64), nullable=False),
        sa.Column("metrics", Json, nullable=False),
        sa.Column("gate_report", Json, nullable=True),
        sa.Column("approved_by", sa.String(length=200), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("changed_at", UtcDateTime(), nullable=False),
        sa.Column("deleted", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_model_versions")),
    )
    with op.batch_alter_table("model_versions", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_model_versions_kind_created_at"), ["kind", "created_at"], unique=False
        )

    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("stream", sa.String(length=32), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "rewards",
        sa.Column("completion_id", sa.String(length=96), nullable=False),
        sa.Column("choice", sa.Integer(), nullable=False),
        sa.Column("scorer", sa.String(length=32), nullable=False),
        sa.Column("scorer_version", sa.String(length=200), nullable=False),
        sa.Column("tenant", sa.String(length=200), nullable=False),
        sa.Column("version", sa.String(length=200), nullable=False),
        sa.Column("track", sa.String(length=16), nullable=False),
        sa.Column("score", sa.Float(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("components", Json, nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint(
            "completion_id", "choice", "scorer", "scorer_version", name=op.f("pk_rewards")
        ),
    )
    with op.batch_alter_table("rewards", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_rewards_version_scorer"), ["version", "scorer"], unique=False
        )

    op.create_table(
        "runs",
        sa.Column("id", sa.String(length=96), nullable=False),
        sa.Column("method", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("base_version", sa.String(length=200), nullable=False),
        sa.Column("parent", sa.String(length=200), nullable=True),
        sa.Column("dataset_fingerprint", sa.String(length=64), nullable=True),
        sa.Column("config", Json, nullable=False),
        sa.Column("seed", sa.Integer(), nullable=False),
        sa.Column("progress", Json, nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("heartbeat_at", UtcDateTime(), nullable=True),
        sa.Column("finished_at", UtcDateTime(), nullable=True),
        sa.Column("version", sa.String(length=200), nullable=True),
        sa.CheckConstraint(
            "state in ('asked','preparing','running','registering','done','failed','cancelled')",
            name=op.f("ck_runs_state"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs")),
    )
    with op.batch_alter_table("runs", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_runs_state"), ["state"], unique=False)

    op.create_table(
        "aliases",
        sa.Column("alias", sa.String(length=32), nullable=False),
        sa.Column("version", sa.String(length=200), nullable=True),
        sa.Column("weight", sa.Float(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("changed_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["version"], ["model_versions.name"], name=op.f("fk_aliases_version")
        ),
        sa.PrimaryKeyConstraint("alias", name=op.f("pk_aliases")),
    )

    op.create_table(
        "leases",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("holder", sa.String(length=200), nullable=False),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
    )
    op.create_table(
        "looks",
        sa.Column("version", sa.String(length=200), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("weight", sa.Float(), nullable=False),
        sa.Column("verdict", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("measured", Json, nullable=False),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("version", "number", name=op.f("pk_looks")),
    )
    op.create_table(
        "releases",
        sa.Column("version", sa.String(length=200), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("asked_at", UtcDateTime(), nullable=True),
        sa.Column("asked_by", sa.String(length=200), nullable=True),
        sa.Column("asked_reason", sa.Text(), nullable=True),
        sa.Column("evaluating_since", UtcDateTime(), nullable=True),
        sa.Column("awaiting_step", sa.Integer(), nullable=True),
        sa.Column("approvals", Json, nullable=False),
        sa.Column("step", sa.Integer(), nullable=True),
        sa.Column("step_since", UtcDateTime(), nullable=True),
        sa.Column("canary_since", UtcDateTime(), nullable=True),
        sa.Column("ended_at", UtcDateTime(), nullable=True),
        sa.Column("plan", Json, nullable=True),
        sa.Column("changed_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["version"], ["model_versions.name"], name=op.f("fk_releases_version")
        ),
        sa.PrimaryKeyConstraint("version", name=op.f("pk_releases")),
    )


def downgrade() -> None:
    op.drop_table("releases")
    op.drop_table("looks")
    op.drop_table("leases")
    op.drop_table("aliases")
    with op.batch_alter_table("runs", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_runs_state"))

    op.drop_table("runs")
    with op.batch_alter_table("rewards", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_rewards_version_scorer"))

    op.drop_table("rewards")
    op.drop_table("outbox")
    with op.batch_alter_table("model_versions", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_model_versions_kind_created_at"))

    op.drop_table("model_versions")
    op.drop_table("idempotency_keys")
    with op.batch_alter_table("feedback", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_feedback_tenant_received_at"))
        batch_op.drop_index(batch_op.f("ix_feedback_status_kind"))
        batch_op.drop_index(batch_op.f("ix_feedback_run_id"))
        batch_op.drop_index(batch_op.f("ix_feedback_other_completion_id"))
        batch_op.drop_index(batch_op.f("ix_feedback_completion_id"))

    op.drop_table("feedback")
    with op.batch_alter_table("completions", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_completions_version"))
        batch_op.drop_index(batch_op.f("ix_completions_created_at"))
        batch_op.drop_index(batch_op.f("ix_completions_tenant_session"))
        batch_op.drop_index(batch_op.f("ix_completions_tenant_created_at"))

    op.drop_table("completions")
    op.drop_table("api_keys")
    op.drop_table("alias_history")
