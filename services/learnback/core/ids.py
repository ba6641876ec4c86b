"""Identifiers: UUIDv7 (RFC 9562), so that sorting by id sorts by time; names and digests."""

from __future__ import annotations

import hashlib
import os
import socket

import uuid_utils


def uuid7() -> str:
    """A new UUIDv7 as 32 hex digits; thread-safe, about a microsecond."""
    return str(uuid_utils.uuid7().hex)


def new_id(prefix: str) -> str:
    """`<prefix>_<uuid7>`, such as `fb_0193...`."""
    return f"{prefix}_{uuid7()}"


def worker_name() -> str:
    """This process's name within its consumer groups: no other living one has it."""
    return f"{socket.gethostname()}-{os.getpid()}"


def digest_text(text: str) -> str:
    """SHA-256 of a text in hex; half surrogates, which callers may send, are taken as they are."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
