"""What we answer ourselves: models, health, our OpenAPI document, and errors."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.types import Scope, Send

from learnback.contracts import models
from learnback.core import http_metrics
from learnback.core.errors import LearnbackError, NotFound
from learnback.inference.body import split_headers
from learnback.inference.errors import MethodNotAllowed, ModelNotFound, openai_error
from learnback.inference.openapi import document
from learnback.inference.routing import Snapshot
from learnback.inference.services import Services
from learnback.ledger.keys import Principal, require_scope

MODELS = "/v1/models"
OWN = frozenset((MODELS, "/healthz", "/readyz", "/openapi.json"))
PATHS = ("/", ".", "~")
"""Names that begin so are folders of this machine: they work, but are nobody's business."""
STALLED = 408
"""After it the connection ends: the client is not sending. One that sends too much is let finish,
since a client whose connection breaks while it sends never sees the 413."""


async def authenticate(services: Services, authorization: bytes | None) -> Principal:
    """Who asks, by the `Authorization` header. Raises Unauthenticated or Unavailable."""
    header = None if authorization is None else authorization.decode("latin-1")
    return await services.keys.authenticate(header, required=services.keys_required)


def at_hand(services: Services, authorization: bytes | None) -> Principal | None:
    """The same where nothing has to be waited for, as for nearly every request; else None."""
    header = None if authorization is None else authorization.decode("latin-1")
    return services.keys.at_hand(header, required=services.keys_required)


async def answer(services: Services, scope: Scope, send: Send, *, posted: bool) -> None:
    """Answer a path of ours; NotFound for all others, whatever the engine has there.

    `posted`: the path is known, but for another method.
    """
    path, method = scope["path"], scope["method"]
    if posted or (path in OWN and method not in {"GET", "HEAD"}):
        raise MethodNotAllowed(f"{method} is not allowed on {path}.")
    if path == "/healthz":
        await respond(send, 200, b"ok", content_type=b"text/plain; charset=utf-8")
    elif path == "/readyz":
        await _readyz(services, send)
    elif path == "/openapi.json":
        await respond(send, 200, msgspec.json.encode(document()))
    elif path == MODELS or path.startswith(f"{MODELS}/"):
        await _models(services, scope, send)
    else:
        raise NotFound(f"There is no {method} {path}; GET /openapi.json says what there is.")


async def _readyz(services: Services, send: Send) -> None:
    """Ready: the engine is well and this replica serves the release's stable version, and stays."""
    if services.draining.begun:
        going = {"ready": False, "checks": {"draining": services.draining.problem}}
        await respond(send, 503, msgspec.json.encode(going))
        return
    checks = {
        "engine": await _engine_check(services),
        "release": await services.follower.problem(),
    }
    http_metrics.checked(checks)
    shown: dict[str, Any] = {name: reason or "ok" for name, reason in checks.items()}
    ready = not any(checks.values())
    body = {"ready": ready, "checks": shown, "not_served": services.follower.lagging()}
    await respond(send, 200 if ready else 503, msgspec.json.encode(body))


async def _engine_check(services: Services) -> str | None:
    try:
        return await services.follower.loader.well()
    except LearnbackError as error:
        return error.detail
    except Exception as error:  # whoever probes wants an answer, not a trace
        return f"{type(error).__name__}: {error}"


async def _models(services: Services, scope: Scope, send: Send) -> None:
    """The list of models, or one of them."""
    if scope["method"] not in {"GET", "HEAD"}:
        raise MethodNotAllowed(f"{scope['method']} is not allowed on {scope['path']}.")
    _, ours = split_headers(scope["headers"])
    principal = await authenticate(services, ours.get(b"authorization"))
    require_scope(principal, models.Scope.INFER)
    cards = listed(services.follower.snapshot)
    name = scope["path"][len(MODELS) + 1 :]
    if not name:
        body: dict[str, Any] = {"object": "list", "data": cards}
    else:
        found = [card for card in cards if card["id"] == name]
        if not found:
            raise ModelNotFound(f"The model {name!r} does not exist.", field="model")
        body = found[0]
    await respond(send, 200, msgspec.json.encode(body))


def listed(snapshot: Snapshot) -> list[dict[str, Any]]:
    """The models of `GET /v1/models`: public names first, then versions, newest first."""
    versions = sorted(snapshot.versions.values(), key=lambda v: (-v.created, v.name))
    good = [v for v in versions if v.problem is None]
    stable = snapshot.versions.get(snapshot.stable or "")
    created = stable.created if stable else 0
    names = sorted(name for name in snapshot.public_names if not name.startswith(PATHS))
    public = [_card(name, created, snapshot.stable, None) for name in names]
    return public + [_card(v.name, v.created, v.name, v.kind.value) for v in good]


def _card(name: str, created: int, version: str | None, kind: str | None) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "learnback",
        "version": version,
        "kind": kind or "public",
    }


async def answer_error(send: Send, error: LearnbackError) -> None:
    """An error in OpenAI's shape."""
    extra = []
    if error.status == 401:
        extra.append((b"www-authenticate", b"Bearer"))
    if error.status == 503:
        extra.append((b"retry-after", b"1"))
    if error.status == 405:
        extra.append((b"allow", b"GET, POST"))
    if error.status == STALLED:
        extra.append((b"connection", b"close"))
    await respond(send, error.status, openai_error(error), extra=extra)


async def respond(
    send: Send,
    status: int,
    body: bytes,
    *,
    content_type: bytes = b"application/json",
    extra: list[tuple[bytes, bytes]] | None = None,
) -> None:
    """A whole answer."""
    headers = [
        (b"content-type", content_type),
        (b"content-length", b"%d" % len(body)),
        *(extra or []),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
