"""Column types that mean the same on SQLite and PostgreSQL."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, DateTime, Dialect
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeDecorator


class UtcDateTime(TypeDecorator[datetime]):
    """An aware time in UTC; SQLite, which keeps no zone, stores it without and gets it back."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To UTC; a time without zone is a mistake of ours."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a zone can't be stored")
        in_utc = value.astimezone(UTC)
        return in_utc.replace(tzinfo=None) if dialect.name == "sqlite" else in_utc

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Aware again."""
        if value is None:
            return None
        found: datetime = value
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


Json = JSON().with_variant(JSONB(), "postgresql")
"""A JSON document; None is SQL NULL only for nullable columns given as `none_as_null`."""


def storable(value: Any) -> Any:
    """A JSON value that both databases take.

    PostgreSQL refuses NUL characters and half surrogates, and JSON has no NaN: they become
    U+FFFD and None, since a record of what was said matters more than these.
    """
    if isinstance(value, str):
        clean = value.replace("\x00", "\ufffd") if "\x00" in value else value
        return (
            clean
            if clean.isascii()
            else clean.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        )
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {storable(k): storable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [storable(item) for item in value]
    return value
