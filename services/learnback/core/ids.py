"""Identifiers: UUIDv7 (RFC 9562), so that sorting by id sorts by time."""

from __future__ import annotations

import uuid_utils


def uuid7() -> str:
    """A new UUIDv7 as 32 hex digits; thread-safe, about a microsecond."""
    return str(uuid_utils.uuid7().hex)


def new_id(prefix: str) -> str:
    """`<prefix>_<uuid7>`, such as `fb_0193...`."""
    return f"{prefix}_{uuid7()}"
