"""Settings of the reward process."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import ClassVar, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from learnback.core.settings import Settings


class RewardSettings(Settings):
    """`LEARNBACK_REWARD_*`, or the table `[reward]`."""

    model_config = SettingsConfigDict(env_prefix="LEARNBACK_REWARD_")
    table: ClassVar[str] = "reward"

    host: str = "127.0.0.1"
    """Address to listen on; beyond loopback API keys are required."""
    port: int = 8002
    """TCP port."""
    look_every: timedelta = timedelta(seconds=15)
    """How often the registry is asked for the reward model, should its message get lost."""
    max_body_bytes: int = 1024 * 1024
    """Longest body of a request, in bytes."""
    body_timeout: timedelta = timedelta(seconds=10)
    """Longest time for a body to arrive."""
    engine_concurrency: int = Field(default=32, ge=1)
    """Answers that the engine of neural reward models is asked about at once."""
    judge_url: str = ""
    """Of a server with the OpenAI API whose model is asked as a judge; empty: no judge."""
    judge_model: str = ""
    """That model's name there."""
    judge_api_key: SecretStr = SecretStr("")
    """Bearer token that the server asks for."""
    judge_rubric: Path | None = None
    """Text file that says what counts as good; none: correct, complete, clear and brief."""
    judge_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the served completions that the judge grades; 0: on request only, since each costs
    a call."""
    judge_concurrency: int = Field(default=8, ge=1)
    """Questions to the judge at once."""
    judge_timeout: timedelta = timedelta(seconds=20)
    """Longest wait for one answer of the judge."""

    @model_validator(mode="after")
    def _judge_is_whole(self) -> Self:
        if bool(self.judge_url) != bool(self.judge_model):
            raise ValueError("judge_url and judge_model go together: set both or none")
        return self
