"""What our own HTTP APIs share: RFC 9457 errors, limits on bodies, health and metrics routes."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from learnback.core import http_metrics
from learnback.core.errors import (
    BadRequest,
    LearnbackError,
    Timeout,
    TooLarge,
    TooManyRequests,
    Unprocessable,
    UnsupportedMediaType,
)

log = logging.getLogger(__name__)

PROBLEM_JSON = "application/problem+json"
MAX_DEPTH = 32
"""Nesting that no honest body needs; deeper ones only cost memory and stack."""

CHECK_S = 5.0
"""Longest wait for one readiness check; a part that is slower than this is not ready."""

LONGEST_ECHO = 300
"""Characters of a caller's own text in an error: enough to recognise it."""
MOST_ERRORS = 50
"""Errors listed in one answer; a body of a thousand mistakes is not worth a megabyte."""

Check = Callable[[], Awaitable[str | None]]
"""A readiness check: None if fine, else the reason in words."""
Admit = Callable[[str | None], Awaitable[object]]
"""Raises a LearnbackError for an `Authorization` header whose request is not worth reading."""


def problem(
    error: LearnbackError, errors: Sequence[dict[str, str]] = (), instance: str | None = None
) -> JSONResponse:
    """An error as a problem document (RFC 9457); `errors` lists `{field, message}`."""
    listed = list(errors)
    if not listed and error.field:
        listed = [{"field": error.field, "message": error.detail}]
    body: dict[str, Any] = {
        "type": f"urn:learnback:error:{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
        "errors": listed,
    }
    if instance:
        body["instance"] = instance
    headers = {}
    if isinstance(error, TooManyRequests):
        headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(body, error.status, headers, media_type=PROBLEM_JSON)


def problem_document(error: LearnbackError) -> tuple[str, bytes]:
    """An error of a request that the app never saw: content type and body."""
    return PROBLEM_JSON, bytes(problem(error).body)


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error of `app` with a problem document."""
    app.add_exception_handler(LearnbackError, _on_learnback_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_bug)


async def _on_learnback_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, LearnbackError)
    return problem(error, instance=request.url.path)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    invalid, found = invalid_request(error.errors())
    return problem(invalid, found, request.url.path)


def invalid_request(
    errors: Sequence[Any],
) -> tuple[BadRequest | Unprocessable, list[dict[str, str]]]:
    """Pydantic's errors as ours: the first one in words, and all as `{field, message}`.

    Short and encodable whatever the caller sent.
    """
    found = [_invalid(error) for error in errors[:MOST_ERRORS]]
    unreadable = any(error["type"] == "json_invalid" for error in errors)
    kind = BadRequest if unreadable else Unprocessable
    field = found[0]["field"]
    return kind(f"{field}: {found[0]['message']}" if field else found[0]["message"]), found


def _invalid(error: dict[str, Any]) -> dict[str, str]:
    """One of pydantic's errors; for a body that is no JSON the location is a byte, not a field."""
    context = error.get("ctx", {})
    if error["type"] == "json_invalid":
        why = context.get("error", "unreadable")
        return {"field": "", "message": f"The body is not JSON: {why} at {error['loc'][-1]}."}
    location = list(error["loc"])
    message = str(error["msg"])
    if error["type"] == "union_tag_not_found":
        location, message = [*location, context["discriminator"].strip("'")], "Field required"
    if error["type"] == "union_tag_invalid":
        location.append(context["discriminator"].strip("'"))
        message = f"Input should be {context['expected_tags']}"
    return {"field": shown(field_path(location)), "message": shown(message)}


def shown(text: str) -> str:
    """A text of a caller as we give it back: bounded, and without half surrogates."""
    short = text if len(text) <= LONGEST_ECHO else f"{text[:LONGEST_ECHO]}..."
    return short.encode("utf-8", "replace").decode()


def field_path(location: Sequence[int | str]) -> str:
    """Pydantic's location as a path: `("body", "first", 0)` is `first.0`."""
    parts = [str(part) for part in location]
    return ".".join(parts[1:] if parts[:1] in (["body"], ["query"], ["path"]) else parts)


async def _on_http_error(request: Request, error: Exception) -> Response:
    """Starlette's own errors (an unknown path, a wrong method) in our shape."""
    assert isinstance(error, HTTPException)
    codes = {404: "unknown_path", 405: "method_not_allowed"}
    code = codes.get(error.status_code, "http_error")
    body = {
        "type": f"urn:learnback:error:{code}",
        "title": str(error.detail),
        "status": error.status_code,
        "detail": f"{request.method} {shown(request.url.path)}: {error.detail}.",
        "code": code,
        "errors": [],
        "instance": request.url.path,
    }
    return JSONResponse(body, error.status_code, error.headers, media_type=PROBLEM_JSON)


async def _on_bug(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return problem(
        LearnbackError("An error on our side; nothing was written. The log has its trace."),
        instance=request.url.path,
    )


class BodyLimits:
    """ASGI middleware: reads a body whole before the app sees it, within limits.

    413 over `max_bytes`, 408 if it does not arrive within `max_seconds`, 400 if it is not UTF-8
    or nested deeper than `MAX_DEPTH`, 415 if it is not declared as JSON. One whose client went
    away half-way never reaches the app. Whom `admit` refuses is told before the body is read.
    """

    def __init__(
        self, app: ASGIApp, *, max_bytes: int, max_seconds: float, admit: Admit | None = None
    ) -> None:
        self.app = app
        self.admit = admit
        self.max_bytes = max_bytes
        self.max_seconds = max_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check, then hand on the whole body."""
        if scope["type"] != "http" or scope["method"] in {"GET", "HEAD", "OPTIONS", "DELETE"}:
            await self.app(scope, receive, send)
            return
        try:
            headers = {k.lower(): v for k, v in scope["headers"]}
            if self.admit is not None:
                key = headers.get(b"authorization")
                await self.admit(None if key is None else key.decode("latin-1"))
            body = await self._body(headers, receive)
        except LearnbackError as error:
            await problem(error, instance=scope["path"])(scope, receive, send)
            return
        if body is None:  # the client is gone: there is nobody to answer
            return
        await self.app(scope, _replay(body, receive), send)

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes | None:
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self.max_bytes:
            raise TooLarge(f"The body may have {self.max_bytes} bytes, not {int(declared)}.")
        try:
            async with asyncio.timeout(self.max_seconds):
                body = await read_body(receive, self.max_bytes)
        except TimeoutError:
            raise Timeout(f"The body did not arrive within {self.max_seconds:g} s.") from None
        if body:
            check_json_body(body, headers.get(b"content-type", b""))
        return body


async def read_body(receive: Receive, max_bytes: int) -> bytes | None:
    """The whole body; None if the client went away before its end. TooLarge over `max_bytes`."""
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > max_bytes:
            raise TooLarge(f"The body may have {max_bytes} bytes.")
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def check_json_body(body: bytes, content_type: bytes) -> None:
    """Refuse what is not declared as JSON, is not UTF-8, or is nested too deep."""
    media_type = content_type.split(b";", 1)[0].strip().lower()
    if media_type != b"application/json":
        shown = media_type.decode("latin-1") or "none"
        raise UnsupportedMediaType(f"Send Content-Type: application/json, not {shown}.")
    try:
        body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRequest(f"The body is not UTF-8 (byte {error.start}).") from None
    if json_depth(body) > MAX_DEPTH:
        raise BadRequest(f"The body is nested deeper than {MAX_DEPTH} levels.")


def json_depth(body: bytes, limit: int = MAX_DEPTH) -> int:
    """Nesting of a JSON text outside its strings; stops counting above `limit`."""
    if body.count(b"[") + body.count(b"{") <= limit:
        return 0
    depth = deepest = 0
    for byte in _STRING.sub(b"", body).translate(None, _NO_BRACKETS):
        depth += 1 if byte in b"[{" else -1
        deepest = max(deepest, depth)
        if deepest > limit:
            return deepest
    return deepest


_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\Z)', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives `body` first, then whatever the server says."""
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


async def _reason(check: Check) -> str | None:
    """A check that fails to run is a reason too: whoever probes wants an answer, not a trace."""
    try:
        async with asyncio.timeout(CHECK_S):
            return await check()
    except TimeoutError:
        return f"no answer within {CHECK_S:g} s"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def add_health_routes(app: FastAPI, checks: dict[str, Check]) -> None:
    """`/healthz` (alive), `/readyz` (each check by name), `/metrics` (Prometheus text).

    All other requests are counted and timed from here on.
    """
    app.add_middleware(http_metrics.Measured)

    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> PlainTextResponse:
        return PlainTextResponse("ok")

    @app.get("/readyz", include_in_schema=False)
    async def readyz(request: Request) -> JSONResponse:
        draining = getattr(request.app.state, "draining", None)  # where the server is our own
        if draining is not None and draining.begun:
            shown = {"draining": draining.problem}
            return JSONResponse({"ready": False, "checks": shown}, 503)
        reasons = {name: await _reason(check) for name, check in checks.items()}
        http_metrics.checked(reasons)
        ready = not any(reasons.values())
        shown = {name: reason or "ok" for name, reason in reasons.items()}
        return JSONResponse({"ready": ready, "checks": shown}, 200 if ready else 503)

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
