"""Settings of the release process."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import ClassVar

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from learnback.core.settings import Settings


class ReleaseSettings(Settings):
    """Settings of the release process; what it decides by stands in the policy."""

    model_config = SettingsConfigDict(env_prefix="LEARNBACK_RELEASE_", extra="forbid")
    table: ClassVar[str] = "release"

    host: str = "127.0.0.1"
    """Address to listen on; anything beyond loopback asks for API keys."""
    port: int = 8004
    """TCP port of the API."""
    inference_url: str = "http://127.0.0.1:8000"
    """Base URL of the inference process (a Service on Kubernetes), without `/v1`."""
    api_key: SecretStr = SecretStr("")
    """Learnback key with the scope `infer`, and with `evaluate` where several tenants have examples
    in prompt versions; empty where inference asks for none."""
    judge_api_key: SecretStr = SecretStr("")
    """Key of the policy's judge model, if it asks for one."""
    policy: Path | None = None
    """The release policy (docs/release-policy.md); none: what passes the gate is promoted."""
    prompts: int = Field(default=64, ge=1)
    """Held-out prompts per evaluation: 64 tell a win rate of 63% from a coin."""
    max_tokens: int = Field(default=64, ge=1)
    """Tokens per answer: enough to compare two, and an evaluation takes minutes on a CPU."""
    temperature: float = Field(default=0.7, ge=0, le=2)
    """What people are served at; at 0 the evaluation would judge answers that nobody sees."""
    concurrency: int = Field(default=16, ge=1)
    """Answers generated at once: batches well, and leaves the engine room for people."""
    request_timeout: timedelta = timedelta(seconds=120)
    """Longest wait for one answer; a loaded CPU engine needs a minute."""
    look_every: timedelta = timedelta(seconds=30)
    """How often the ledger is looked at without being told to."""
    lease: timedelta = timedelta(seconds=15)
    """How long a controller that died keeps others from acting; renewed three times as often."""
    attempts: int = Field(default=5, ge=1)
    """Evaluations that may fail because the engine fails on the candidate; then it is refused."""
    max_body_bytes: int = Field(default=64 * 1024, ge=1024)
    """Longest request body in bytes: a version name and a reason."""
