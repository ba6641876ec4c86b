"""Settings of the operator."""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar

from pydantic import SecretStr
from pydantic_settings import SettingsConfigDict

from learnback.core.settings import Settings


class OperatorSettings(Settings):
    """`LEARNBACK_OPERATOR_*`, or the table `[operator]`."""

    model_config = SettingsConfigDict(env_prefix="LEARNBACK_OPERATOR_")
    table: ClassVar[str] = "operator"

    host: str = "127.0.0.1"
    """Address of its health checks and metrics."""
    port: int = 8005
    """TCP port."""
    release_url: str = "http://127.0.0.1:8004"
    """Base URL of the release process."""
    api_key: SecretStr = SecretStr("")
    """Key with the scope `release` for the release process; empty where it asks for none."""
    poll: timedelta = timedelta(seconds=10)
    """How often versions are compared with objects; a change of an object is seen at once."""
