"""Every table of the ledger. A change here needs a migration; a test compares the two."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    false,
)

from learnback.ledger.types import Json, UtcDateTime

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

ID = String(96)
NAME = String(200)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", ID, primary_key=True),
    Column("tenant", NAME, nullable=False),
    Column("name", NAME, nullable=False),
    Column("scopes", Json, nullable=False),
    Column("digest", String(64), nullable=False, unique=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime),
    Column("revoked_at", UtcDateTime),
)
"""`digest` is SHA-256 of the key; a key has 256 random bits, so a slow hash adds nothing."""

completions = Table(
    "completions",
    metadata,
    Column("id", ID, primary_key=True),
    Column("tenant", NAME, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("endpoint", String(32), nullable=False),
    Column("version", NAME, nullable=False),
    Column("track", String(16), nullable=False),
    Column("probability", Float, nullable=False),
    Column("end", String(32), nullable=False),
    Column("status_code", Integer, nullable=False),
    Column("streamed", Boolean, nullable=False),
    Column("stored", Boolean, nullable=False),
    Column("prompt", Json, nullable=False),
    Column("prompt_key", String(64), nullable=False),
    Column("choices", Json, nullable=False),
    Column("parameters", Json, nullable=False),
    Column("subject", NAME),
    Column("session", NAME),
    Column("metadata", Json, nullable=False),
    Column("prompt_tokens", Integer),
    Column("completion_tokens", Integer),
    Column("first_byte_s", Float),
    Column("duration_s", Float, nullable=False),
    Column("recorded_at", UtcDateTime, nullable=False),
    Column("erased_at", UtcDateTime),
    Column("prompting", Json),
    Column("pair", ID),
    Column("place", Integer),
    Index(None, "tenant", "created_at"),
    Index(None, "tenant", "session"),
    Index(None, "version"),
    Index(None, "created_at"),
    Index(None, "recorded_at"),
    Index(None, "pair"),
)
"""`prompt` is the caller's own. `prompt_key` is a digest of the canonical prompt: what "the same
prompt" means. `prompting` is what a prompt strategy put around it. `pair` is, of an answer that
nobody saw, the id of the one that was shown; of two that were shown side by side, an id of the two,
and `place` is 0 for the first of them."""

feedback = Table(
    "feedback",
    metadata,
    Column("id", ID, primary_key=True),
    Column("tenant", NAME, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("status", String(16), nullable=False),
    Column("status_reason", Text),
    Column("revision", Integer, nullable=False),
    Column("completion_id", ID),
    Column("choice", Integer),
    Column("other_completion_id", ID),
    Column("other_choice", Integer),
    Column("session", NAME),
    Column("rater_id", NAME),
    Column("rater_kind", String(16), nullable=False),
    Column("body", Json, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("received_at", UtcDateTime, nullable=False),
    Column("joined_at", UtcDateTime),
    Column("changed_at", UtcDateTime, nullable=False),
    Column("supersedes", ID),
    Column("superseded_by", ID),
    Column("run_id", ID),
    Column("trained_version", NAME),
    CheckConstraint(
        "status in ('pending_target','accepted','trained','held_out','recorded',"
        "'quarantined','superseded','withdrawn','expired','erased')",
        name="status",
    ),
    Index(None, "tenant", "received_at"),
    Index(None, "status", "kind"),
    Index(None, "completion_id"),
    Index(None, "other_completion_id"),
    Index(None, "run_id"),
)
"""`body` is the request as accepted. `run_id` is the run that took the signal, while it runs and
after it; `trained_version` is what came of it."""

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("tenant", NAME, primary_key=True),
    Column("key", NAME, primary_key=True),
    Column("body_digest", String(64), nullable=False),
    Column("feedback_id", ID, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("stream", String(32), nullable=False),
    Column("body", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    sqlite_autoincrement=True,
)
"""Messages that were decided in a transaction and are not yet on their stream; sent rows go."""

rewards = Table(
    "rewards",
    metadata,
    Column("completion_id", ID, primary_key=True),
    Column("choice", Integer, primary_key=True),
    Column("scorer", String(32), primary_key=True),
    Column("scorer_version", NAME, primary_key=True),
    Column("tenant", NAME, nullable=False),
    Column("version", NAME, nullable=False),
    Column("track", String(16), nullable=False),
    Column("score", Float),
    Column("error", Text),
    Column("components", Json, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Index(None, "version", "scorer"),
)

runs = Table(
    "runs",
    metadata,
    Column("id", ID, primary_key=True),
    Column("method", String(32), nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", Text),
    Column("base_version", NAME, nullable=False),
    Column("parent", NAME),
    Column("dataset_fingerprint", String(64)),
    Column("config", Json, nullable=False),
    Column("seed", Integer, nullable=False),
    Column("progress", Json, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("heartbeat_at", UtcDateTime),
    Column("finished_at", UtcDateTime),
    Column("version", NAME),
    CheckConstraint(
        "state in ('asked','preparing','running','registering','done','failed','cancelled')",
        name="state",
    ),
    Index(None, "state"),
)

model_versions = Table(
    "model_versions",
    metadata,
    Column("name", NAME, primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("base", NAME, nullable=False),
    Column("base_digest", String(64), nullable=False),
    Column("parent", NAME),
    Column("artifact", Text),
    Column("artifact_digest", String(64)),
    Column("run_id", ID),
    Column("dataset_fingerprint", String(64)),
    Column("reward_model", NAME),
    Column("config", Json, nullable=False),
    Column("seed", Integer),
    Column("code_version", String(64), nullable=False),
    Column("metrics", Json, nullable=False),
    Column("gate_report", Json),
    Column("approved_by", NAME),
    Column("created_at", UtcDateTime, nullable=False),
    Column("changed_at", UtcDateTime, nullable=False),
    Column("deleted", Boolean, nullable=False, server_default=false()),
    Index(None, "kind", "created_at"),
)

aliases = Table(
    "aliases",
    metadata,
    Column("alias", String(32), primary_key=True),
    Column("version", NAME, ForeignKey("model_versions.name")),
    Column("weight", Float, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("changed_at", UtcDateTime, nullable=False),
    Column("mirror", Float, nullable=False, server_default="0"),
    Column("patient", Boolean, nullable=False, server_default=false()),
)
"""`weight` is the share of traffic that `candidate` gets; 1 for the others. `mirror` is the share
of requests of which it gets a copy; nobody sees what it answers. `patient`: no replica moves before
all can, however long it takes."""

alias_history = Table(
    "alias_history",
    metadata,
    Column("alias", String(32), primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("version", NAME),
    Column("previous", NAME),
    Column("weight", Float, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("actor", NAME, nullable=False),
    Column("reason", Text, nullable=False),
    Column("mirror", Float, nullable=False, server_default="0"),
)
"""Append-only: what each alias named from when on, who moved it, and why."""

releases = Table(
    "releases",
    metadata,
    Column("version", NAME, ForeignKey("model_versions.name"), primary_key=True),
    Column("revision", Integer, nullable=False),
    Column("asked_at", UtcDateTime),
    Column("asked_by", NAME),
    Column("asked_reason", Text),
    Column("evaluating_since", UtcDateTime),
    Column("awaiting_step", Integer),
    Column("approvals", Json, nullable=False),
    Column("loading_since", UtcDateTime),
    Column("step", Integer),
    Column("step_since", UtcDateTime),
    Column("canary_since", UtcDateTime),
    Column("watched_since", UtcDateTime),
    Column("ended_at", UtcDateTime),
    Column("plan", Json),
    Column("changed_at", UtcDateTime, nullable=False),
)
"""A version's way to people. `revision` counts changes; `awaiting_step` is the step that nobody has
approved yet; `approvals` is only ever appended to; `plan` is what was fixed as replicas began to
load it."""

looks = Table(
    "looks",
    metadata,
    Column("version", NAME, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("step", Integer, nullable=False),
    Column("weight", Float, nullable=False),
    Column("verdict", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("measured", Json, nullable=False),
    Column("token", BigInteger, nullable=False),
)
"""Append-only: each look of the controller at a canary, what it measured and what it decided.
`token` is the lease's, so that one can tell which controller looked."""

identity = Table(
    "identity",
    metadata,
    Column("subject", String(16), primary_key=True),
    Column("id", ID, nullable=False),
)
"""One row, `ledger`: the ledger's own name, which streams remember as that of their owner."""

evaluation_answers = Table(
    "evaluation_answers",
    metadata,
    Column("version", NAME, primary_key=True),
    Column("prompt_key", String(64), primary_key=True),
    Column("prompt", Json, nullable=False),
    Column("candidate", Text, nullable=False),
    Column("stable", Text, nullable=False),
    Column("candidate_reward", Float, nullable=False),
    Column("stable_reward", Float, nullable=False),
    Index(None, "prompt_key"),
)
"""Both answers to each held-out prompt of a version's last evaluation, for its report. Erasing a
prompt's completions erases its row."""

leases = Table(
    "leases",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("holder", NAME, nullable=False),
    Column("token", BigInteger, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
)
"""Who may act. `token` only ever rises, and every write of a holder checks it (fencing)."""

replicas = Table(
    "replicas",
    metadata,
    Column("id", NAME, primary_key=True),
    Column("base_digest", String(64), nullable=False),
    Column("serving", Boolean, nullable=False),
    Column("versions", Json, nullable=False),
    Column("seen_at", UtcDateTime, nullable=False),
)
"""The inference processes that lived lately, and the versions that each can answer with."""

rescorings = Table(
    "rescorings",
    metadata,
    Column("id", ID, primary_key=True),
    Column("reward_model", NAME, nullable=False),
    Column("since", UtcDateTime),
    Column("completion_ids", Json),
    Column("state", String(16), nullable=False),
    Column("error", Text),
    Column("asked_by", NAME, nullable=False),
    Column("asked_at", UtcDateTime, nullable=False),
    Column("position", ID, nullable=False),
    Column("scored", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("changed_at", UtcDateTime, nullable=False),
    CheckConstraint("state in ('asked','running','done','failed')", name="state"),
    Index(None, "state", "asked_at"),
)
"""Wishes that old completions be scored by a reward model; `position` is how far it is, by id."""
