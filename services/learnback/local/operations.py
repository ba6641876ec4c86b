"""What the operator's verbs do: keys, queues, training, releases."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

import click

from learnback.contracts import streams as contract
from learnback.contracts.models import Alias, Scope
from learnback.core.bus import create_groups
from learnback.core.clock import now
from learnback.core.errors import NotFound, Unavailable
from learnback.core.streams import DeadLetter, claim, dead_letter, dead_letters, lags, replay
from learnback.ledger import keys
from learnback.ledger.identity import ledger_id
from learnback.ledger.migrate import migrate
from learnback.local.access import Access, actor, run
from learnback.local.show import show_json, show_table
from learnback.local.status import show_queues
from learnback.release import operations as release

RETRY_S = 2.0
"""Between two looks at a database or a Redis that is away: it starts for seconds."""


def run_migrate(
    home: Path | None, as_json: bool, wait_s: float = 0.0, take_streams: bool = False
) -> None:
    """Create or update the schema and the consumer groups; wait for what is away.

    Raises Conflict if the streams belong to another ledger, unless `take_streams`.
    """

    async def work(opened: Access) -> None:
        await migrate(opened.database)
        async with opened.database.write() as connection:
            owner = await ledger_id(connection)
        await claim(opened.redis, owner, take=take_streams)
        await create_groups(opened.redis)

    deadline = time.monotonic() + wait_s
    while True:
        try:
            run(home, work)
            break
        except Unavailable as error:
            if time.monotonic() + RETRY_S > deadline:
                raise
            click.echo(f"waiting: {error.detail}", err=True)
            time.sleep(RETRY_S)
    _done(as_json, {"migrated": True}, "The ledger and the streams are of this version.")


def run_create_key(
    home: Path | None,
    as_json: bool,
    *,
    name: str,
    tenant: str,
    scopes: tuple[str, ...],
    days: int | None,
) -> None:
    """Make a key and show its secret once."""
    expires = now() + timedelta(days=days) if days else None

    async def work(opened: Access) -> tuple[str, str]:
        async with opened.database.write() as connection:
            return await keys.create_key(
                connection, tenant, name, [Scope(scope) for scope in scopes], expires
            )

    key_id, secret = run(home, work)
    answer = {"id": key_id, "key": secret, "tenant": tenant, "scopes": list(scopes)}
    _done(as_json, answer, f"{secret}\nIts id is {key_id}. It is not shown again.")


def run_import_key(
    home: Path | None, as_json: bool, *, name: str, tenant: str, scopes: tuple[str, ...], file: Path
) -> None:
    """Make the ledger know the key in a file."""
    secret = file.read_text().strip()

    async def work(opened: Access) -> str:
        async with opened.database.write() as connection:
            return await keys.import_key(
                connection, secret, tenant, name, [Scope(scope) for scope in scopes]
            )

    key_id = run(home, work)
    answer = {"id": key_id, "tenant": tenant, "scopes": list(scopes)}
    _done(as_json, answer, f"The ledger knows the key {key_id}.")


def run_list_keys(home: Path | None, as_json: bool) -> None:
    """List keys without secrets."""

    async def work(opened: Access) -> list[keys.ApiKey]:
        async with opened.database.read() as connection:
            return list(await keys.list_keys(connection))

    found = run(home, work)
    if as_json:
        show_json(found)
        return
    columns = ["id", "tenant", "name", "scopes", "expires", "revoked"]
    rows = [[k.id, k.tenant, k.name, " ".join(k.scopes), k.expires_at, k.revoked_at] for k in found]
    show_table("API keys", columns, rows)


def run_revoke_key(home: Path | None, as_json: bool, key_id: str) -> None:
    """Revoke a key."""

    async def work(opened: Access) -> None:
        async with opened.database.write() as connection:
            await keys.revoke_key(connection, key_id)

    run(home, work)
    _done(as_json, {"id": key_id, "revoked": True}, f"{key_id} is revoked.")


def run_lag(home: Path | None, as_json: bool) -> None:
    """Show the lag of each group."""
    found = run(home, lambda opened: lags(opened.redis))
    if as_json:
        show_json(found)
        return
    show_queues(found)


def run_dead(home: Path | None, as_json: bool, stream: str) -> None:
    """List dead letters."""
    found = run(home, lambda opened: dead_letters(opened.redis, _stream(stream)))
    if as_json:
        show_json(found)
        return
    show_table(
        f"Dead letters of {stream}",
        ["id", "group", "deliveries", "error", "body"],
        [[d.id, d.group, d.deliveries, d.error, d.body[:120]] for d in found],
    )


def run_replay(home: Path | None, as_json: bool, stream: str, letter_id: str | None) -> None:
    """Put dead letters back."""

    async def work(opened: Access) -> list[DeadLetter]:
        if letter_id is None:
            chosen = list(reversed(await dead_letters(opened.redis, _stream(stream))))
        elif found := await dead_letter(opened.redis, _stream(stream), letter_id):
            chosen = [found]
        else:
            raise NotFound(f"{stream} has no dead letter {letter_id!r}.", field="--id")
        for letter in chosen:
            await replay(opened.redis, _stream(stream), letter)
        return chosen

    replayed = run(home, work)
    _done(as_json, {"replayed": [d.id for d in replayed]}, f"{len(replayed)} put back.")


def run_promote(home: Path | None, as_json: bool, version: str, reason: str, force: bool) -> None:
    """Promote by hand."""
    moved = run(
        home,
        lambda opened: release.promote(
            opened.database, opened.redis, version, actor=actor(), reason=reason, force=force
        ),
    )
    _done(
        as_json,
        moved,
        f"{version} answers everybody {'now' if force else 'as soon as all replicas have it'}.",
    )


def run_rollback(home: Path | None, as_json: bool, to: str | None, reason: str) -> None:
    """Roll back by hand."""
    moved = run(
        home,
        lambda opened: release.rollback(
            opened.database, opened.redis, actor=actor(), reason=reason, to=to
        ),
    )
    line = f"{moved.version} answers everybody again."
    if moved.alias is Alias.CANDIDATE:
        line = "The candidate answers nobody any more; the stable version stays."
    _done(as_json, moved, line)


def _stream(name: str) -> contract.Stream:  # type: ignore[type-arg]
    try:
        return contract.by_name(name)
    except KeyError as error:
        raise NotFound(str(error.args[0]), field="stream") from error


def _done(as_json: bool, answer: object, line: str) -> None:
    if as_json:
        show_json(answer)
    else:
        click.echo(line)
