"""API keys: hashed in the ledger, cached by every process that asks for them."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from learnback.contracts.models import Scope
from learnback.core.clock import now
from learnback.core.errors import (
    Conflict,
    Forbidden,
    NotFound,
    Unauthenticated,
    Unavailable,
    Unprocessable,
)
from learnback.core.ids import digest_text
from learnback.ledger.database import Database, insert_new
from learnback.ledger.tables import api_keys

log = logging.getLogger(__name__)

DEFAULT_TENANT = "default"
TENANT_SHAPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
KEY_SHAPE = re.compile(r"lb_[0-9a-f]{16}_[A-Za-z0-9_-]{43}")
GAP_S = 0.1
"""Least time between two reads of all keys, so that unknown keys can't load the database."""
PATIENCE_S = 1.0
"""The longest that a request waits for the keys to be read."""
NEVER = float("-inf")
ADMINISTERED = frozenset({Scope.RELEASE, Scope.TRAIN})
"""What `admin` covers. It never lets anybody ask the model or speak for people."""


@dataclass(frozen=True)
class Principal:
    """Who asks: a tenant, the key that proved it (None: nobody asked for one), what it may do."""

    tenant: str
    key_id: str | None
    scopes: frozenset[Scope]


ANONYMOUS = Principal(DEFAULT_TENANT, None, frozenset(Scope))
"""Everybody, where a service listens on loopback only and asks for no key."""


@dataclass(frozen=True)
class ApiKey:
    """A key as the ledger knows it; its secret is shown once, when it is made."""

    id: str
    tenant: str
    name: str
    scopes: tuple[Scope, ...]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


def digest(secret: str) -> str:
    """SHA-256 of a key in hex: what the ledger keeps."""
    return digest_text(secret)


def require_scope(principal: Principal, scope: Scope) -> None:
    """Raises Forbidden unless the principal's key has `scope`, or `admin` where that covers it."""
    if scope not in principal.scopes and not (
        scope in ADMINISTERED and Scope.ADMIN in principal.scopes
    ):
        raise Forbidden(
            f"This API key lacks the scope {scope.value!r}; "
            f"make one with `learnback keys create --scope {scope.value}`."
        )


async def create_key(
    connection: AsyncConnection,
    tenant: str,
    name: str,
    scopes: Iterable[Scope],
    expires_at: datetime | None = None,
) -> tuple[str, str]:
    """Make a key; its id, and its secret `lb_<id>_<43 characters>`, which is kept nowhere."""
    granted = _checked(tenant, name, scopes)
    key_id = secrets.token_hex(8)
    secret = f"lb_{key_id}_{secrets.token_urlsafe(32)}"
    await connection.execute(
        insert(api_keys).values(
            id=key_id,
            tenant=tenant,
            name=name,
            scopes=granted,
            digest=digest(secret),
            created_at=now(),
            expires_at=expires_at,
        )
    )
    return key_id, secret


async def import_key(
    connection: AsyncConnection, secret: str, tenant: str, name: str, scopes: Iterable[Scope]
) -> str:
    """Make the ledger know a key that was made elsewhere, with just these scopes; its id.

    Idempotent, also for several at once. Conflict if the key was revoked or is another tenant's,
    or if its id belongs to another key.
    """
    granted = _checked(tenant, name, scopes)
    if not KEY_SHAPE.fullmatch(secret):
        raise Unprocessable(
            "A key is lb_<16 hex digits>_<43 letters, digits, dashes and underscores>.", field="key"
        )
    key_id = secret.split("_")[1]
    row = {"id": key_id, "tenant": tenant, "name": name, "scopes": granted}
    await connection.execute(
        insert_new(connection, api_keys).values(**row, digest=digest(secret), created_at=now())
    )
    renewed = await connection.execute(
        update(api_keys)
        .where(
            api_keys.c.id == key_id,
            api_keys.c.digest == digest(secret),
            api_keys.c.tenant == tenant,
            api_keys.c.revoked_at.is_(None),
        )
        .values(name=name, scopes=granted)
    )
    if renewed.rowcount == 0:
        raise Conflict(
            f"The key {key_id} is revoked, another tenant's, or another key has its id; "
            "`learnback keys list` tells. Make a new one."
        )
    return key_id


def _checked(tenant: str, name: str, scopes: Iterable[Scope]) -> list[str]:
    """The scopes as they are stored. Raises Unprocessable for what can't be a key's."""
    granted = sorted({Scope(scope).value for scope in scopes})
    if not granted:
        raise Unprocessable("A key needs at least one scope.", field="scopes")
    if not TENANT_SHAPE.fullmatch(tenant):
        raise Unprocessable(
            "A tenant has 1 to 63 letters, digits, dots, dashes and underscores.", field="tenant"
        )
    if not 0 < len(name) <= 200:
        raise Unprocessable("A key's name has 1 to 200 characters.", field="name")
    return granted


async def list_keys(connection: AsyncConnection, tenant: str | None = None) -> list[ApiKey]:
    """All keys, revoked ones included, newest first."""
    query = select(api_keys).order_by(api_keys.c.created_at.desc(), api_keys.c.id)
    if tenant is not None:
        query = query.where(api_keys.c.tenant == tenant)
    return [
        ApiKey(
            id=row.id,
            tenant=row.tenant,
            name=row.name,
            scopes=tuple(sorted(_known(row.scopes))),
            created_at=row.created_at,
            expires_at=row.expires_at,
            revoked_at=row.revoked_at,
        )
        for row in await connection.execute(query)
    ]


async def revoke_key(connection: AsyncConnection, key_id: str) -> None:
    """Revoke a key for ever. Idempotent; NotFound if there is none by that id."""
    revoked = await connection.execute(
        update(api_keys)
        .where(api_keys.c.id == key_id)
        .values(revoked_at=func.coalesce(api_keys.c.revoked_at, now()))
    )
    if revoked.rowcount == 0:
        raise NotFound(f"There is no API key {key_id!r}; `learnback keys list` shows them.")


@dataclass(frozen=True)
class _Entry:
    principal: Principal
    expires_at: datetime | None


class KeyRing:
    """Knows every valid key in memory, so that authentication costs a hash and a lookup.

    A new key works at once, a revoked one stops working within `refresh_s` seconds. With the
    ledger away, the keys known last go on working.
    """

    def __init__(self, database: Database, refresh_s: float = 10.0) -> None:
        self.database = database
        self.refresh_s = refresh_s
        self._entries: dict[str, _Entry] = {}
        self._loaded_at = NEVER
        self._started_at = NEVER
        self._failing = False
        self._refreshing: asyncio.Task[None] | None = None

    def at_hand(self, authorization: str | None, *, required: bool) -> Principal | None:
        """Who sent this header, where that is known now; None: `authenticate` has to tell."""
        if authorization is None:
            return None if required else ANONYMOUS
        if time.monotonic() - self._loaded_at > self.refresh_s / 2:
            return None
        entry = self._entries.get(digest(bearer(authorization) or ""))
        return None if entry is None or _is_over(entry) else entry.principal

    async def authenticate(self, authorization: str | None, *, required: bool) -> Principal:
        """Who sent this `Authorization` header.

        Where no key is required, a caller without a known one is `ANONYMOUS`. Raises
        Unauthenticated otherwise, and Unavailable if the keys could never be read.
        """
        secret = bearer(authorization)
        if secret is None or not KEY_SHAPE.fullmatch(secret):
            if not required:
                return ANONYMOUS
            raise Unauthenticated("Send a Learnback API key as `Authorization: Bearer lb_...`.")
        entry = await self._lookup(digest(secret))
        if entry is None:
            if not required:
                return ANONYMOUS
            raise Unauthenticated("This API key is unknown, expired or revoked.")
        return entry.principal

    async def _lookup(self, key_digest: str) -> _Entry | None:
        asked_at = time.monotonic()
        age = asked_at - self._loaded_at
        if age > self.refresh_s and not self._failing:
            await self._read_after(asked_at)
        elif age > self.refresh_s / 2:  # ahead of time, so that under load nobody waits
            self._start_refresh()
        if key_digest not in self._entries:
            await self._read_after(asked_at)
        if self._loaded_at == NEVER:
            raise Unavailable("The ledger can't be reached, so no API key can be checked.")
        entry = self._entries.get(key_digest)
        return None if entry is None or _is_over(entry) else entry

    async def _read_after(self, moment: float) -> None:
        """Wait for keys that were read after `moment`, at most `PATIENCE_S`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                while self._loaded_at < moment:
                    await asyncio.sleep(max(0.0, self._started_at + GAP_S - time.monotonic()))
                    await asyncio.shield(self._start_refresh())

    def _start_refresh(self) -> asyncio.Task[None]:
        """The refresh that runs, or a new one."""
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._refresh(), name="keys")
        return self._refreshing

    async def _refresh(self) -> None:
        started = self._started_at = time.monotonic()
        try:
            async with self.database.read() as connection:
                rows = (
                    await connection.execute(
                        select(api_keys).where(api_keys.c.revoked_at.is_(None))
                    )
                ).all()
        except Unavailable as error:
            self._failing = True
            log.warning("API keys not refreshed: %s", error)
            return
        self._entries = {
            row.digest: _Entry(
                Principal(row.tenant, row.id, _known(row.scopes)),
                row.expires_at,
            )
            for row in rows
        }
        self._loaded_at = started
        self._failing = False


def _is_over(entry: _Entry) -> bool:
    return entry.expires_at is not None and entry.expires_at <= now()


def _known(scopes: Iterable[str]) -> frozenset[Scope]:
    """Of the scopes in the ledger those that this version knows: a newer one may be beside it."""
    return frozenset(Scope(scope) for scope in scopes if scope in set(Scope))


def bearer(authorization: str | None) -> str | None:
    """The token of an `Authorization: Bearer <token>` header; None if it is not one."""
    scheme, _, token = (authorization or "").strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None
