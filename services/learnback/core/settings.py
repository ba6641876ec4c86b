"""Settings: environment variables `LEARNBACK_*`, or the same in a TOML file.

A process has one class with prefix `LEARNBACK_<PROCESS>_`; what all share is `CommonSettings`
with prefix `LEARNBACK_`. `LEARNBACK_CONFIG=learnback.toml` names a file with one table a class
(`[common]`, `[feedback]`, ...); the environment wins over the file.
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

CONFIG_VARIABLE = "LEARNBACK_CONFIG"
HELD_OUT_SHARE = 0.2
"""A fifth: about 150 of 750 comparisons, which tell 60% from 50%."""


class Settings(BaseSettings):
    """Base of all settings classes; `table` is the class's table in the TOML file."""

    model_config = SettingsConfigDict(extra="forbid", env_ignore_empty=True)
    table: ClassVar[str] = ""

    @field_validator("*", mode="before")
    @classmethod
    def _seconds(cls, value: object, info: ValidationInfo) -> object:
        """A duration may be a number of seconds, also in an environment variable."""
        field = cls.model_fields.get(info.field_name or "")
        if field is None or field.annotation is not timedelta or not isinstance(value, str):
            return value
        try:
            return float(value)
        except ValueError:
            return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments first, then the environment, then the file."""
        path = os.environ.get(CONFIG_VARIABLE)
        if not path:
            return init_settings, env_settings
        file = TomlConfigSettingsSource(settings_cls, Path(path), deep_merge=False)
        file.toml_data = file.toml_data.get(cls.table, {})
        file.init_kwargs = file.toml_data
        return init_settings, env_settings, file


class CommonSettings(Settings):
    """What every process needs to find the others' work."""

    model_config = SettingsConfigDict(env_prefix="LEARNBACK_")
    table: ClassVar[str] = "common"

    home: Path = Path(".learnback")
    """Folder for everything that a single machine keeps: database, artifacts, spool, caches."""
    redis_url: str = "redis://127.0.0.1:6379/0"
    """Redis 7+ or Valkey 8+, with `maxmemory-policy noeviction`."""
    database_url: str = ""
    """SQLAlchemy URL of the ledger; empty: SQLite in `home`. PostgreSQL: `postgresql://...`."""
    artifacts_url: str = ""
    """fsspec URL of the artifact store (`file://`, `s3://`); empty: a folder in `home`."""
    model: str = ""
    """The base model that is served and trained: a folder or a hub name."""
    reward_engine_url: str = ""
    """Of a vLLM pooling engine (`learnback reward-engine`) for neural reward models; empty: they
    run in the process that needs one, if torch is installed there."""
    reward_engine_key: SecretStr = SecretStr("")
    """Bearer token that `learnback reward-engine` asks for, and that those who use it send; it must
    have one as soon as it listens beyond loopback."""
    held_out_share: float = Field(HELD_OUT_SHARE, gt=0, lt=1)
    """Share of prompts kept out of training, for evaluation: retraining and release must agree."""
    log_format: str = "text"
    """`text` for people, `json` for a log collector."""
    log_level: str = "INFO"
    """Python's level names."""
    require_keys: bool | None = None
    """Ask for API keys; None: as soon as a service listens beyond loopback."""
    head_timeout: timedelta = Field(timedelta(seconds=10), gt=timedelta(0))
    """Longest time for the headers of a request to our own HTTP APIs to arrive."""
    requests_per_s: float = Field(1000.0, gt=0)
    """Requests a second to one of our own HTTP APIs by one API key, or by one address without key;
    five times as many at once. Inference leaves that to who stands before it."""
    failed_keys_per_s: float = Field(1.0, gt=0)
    """Wrong API keys a second from one address, thirty times as many at once; then 429 instead of
    401. Behind a proxy, name it in `FORWARDED_ALLOW_IPS`, which uvicorn reads."""
    linger: timedelta = Field(timedelta(0), ge=timedelta(0))
    """How long new connections are served after SIGTERM, while those who route requests here learn
    of it; the chart sets 5 s."""

    @property
    def ledger_url(self) -> str:
        """The database URL with the SQLite default filled in."""
        return self.database_url or f"sqlite:///{(self.home / 'ledger.db').absolute()}"

    @property
    def artifact_root(self) -> str:
        """The artifact store's URL with the local default filled in."""
        return self.artifacts_url or f"file://{(self.home / 'artifacts').absolute()}"


def keys_required(common: CommonSettings, host: str) -> bool:
    """Whether a service listening on `host` asks for API keys."""
    if common.require_keys is not None:
        return common.require_keys
    return host not in {"127.0.0.1", "::1", "localhost"}
