"""The request's body: read within limits, a few fields looked at, `model` replaced.

The body is never parsed whole on the way to the engine: about two microseconds for a kilobyte.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator, Iterable
from typing import Any, TypeVar, cast

import msgspec
from starlette.types import Receive

from learnback.contracts.headers import AS_TENANT
from learnback.core.errors import BadRequest, Timeout, TooLarge, UnsupportedMediaType
from learnback.core.http import json_depth, read_body

JSON = b"application/json"
MAX_DEPTH = 128
"""Tool schemas nest deep: OpenAI allows 10 levels, each of which is 3 of JSON."""
METADATA_PAIRS, METADATA_KEY, METADATA_VALUE = 16, 64, 512
"""OpenAI's limits; lengths in characters."""
IDENTIFIER = 512
"""Longest `user` or `safety_identifier`, in characters."""
INTERNAL = frozenset(
    (
        "request_id",
        "kv_transfer_params",
        "ec_transfer_params",
        "routed_experts_prompt_start",
        "data_parallel_rank",
        "rid",
        "lora_path",
        "routed_dp_rank",
        "bootstrap_host",
        "bootstrap_port",
        "bootstrap_room",
    )
)
"""Fields between engines and their routers, of vLLM and of SGLang: no client of ours may set them,
least of all the adapter that answers."""

T = TypeVar("T")

Headers = list[tuple[bytes, bytes]]
Fields = dict[str, msgspec.Raw]


class Peek(msgspec.Struct):
    """The few fields of a request that we go by; the engine judges all others."""

    model: str
    stream: bool | None = None
    store: bool | None = None
    n: int | None = None
    user: str | None = None
    safety_identifier: str | None = None
    metadata: dict[str, str] | None = None


_PEEK = msgspec.json.Decoder(Peek)
_FIELDS = msgspec.json.Decoder(Fields)


async def read(
    receive: Receive, content_type: bytes, declared: bytes, max_bytes: int, max_seconds: float
) -> bytes | None:
    """The whole body as JSON text; None if the client left. 400, 408, 413 or 415 otherwise."""
    if declared.isdigit() and int(declared) > max_bytes:
        raise TooLarge(f"The body may have {max_bytes} bytes, not {int(declared)}.")
    if content_type != JSON:
        _check_media_type(content_type)
    try:
        body = await _within(read_body(receive, max_bytes), max_seconds)
    except TimeoutError:
        raise Timeout(f"The body did not arrive within {max_seconds:g} s.") from None
    if body is not None:
        _check_text(body)
    return body


def _check_media_type(content_type: bytes) -> None:
    media_type = content_type.split(b";", 1)[0].strip().lower()
    if media_type != JSON and not media_type.endswith(b"+json"):
        shown = media_type.decode("latin-1") or "none"
        raise UnsupportedMediaType(f"Send Content-Type: application/json, not {shown}.")


async def _within(reading: Coroutine[Any, Any, T], seconds: float) -> T:
    """`reading` under a timeout; most bodies are there already, and setting up a timeout costs more
    than all else that is done to them."""
    try:
        awaited = reading.send(None)
    except StopIteration as done:
        return cast(T, done.value)
    async with asyncio.timeout(seconds):
        return await _resumed(reading, awaited)


@types.coroutine
def _resumed(reading: Coroutine[Any, Any, T], awaited: Any) -> Generator[Any, Any, T]:
    """A coroutine that stopped at `awaited`, from there on."""
    try:
        while True:
            try:
                given = yield awaited
            except BaseException as error:
                awaited = reading.throw(error)
            else:
                awaited = reading.send(given)
    except StopIteration as done:
        return cast(T, done.value)


def _check_text(body: bytes) -> None:
    if not body.isascii():
        try:
            body.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadRequest(f"The body is not UTF-8 (byte {error.start}).") from None
    if json_depth(body, MAX_DEPTH) > MAX_DEPTH:
        raise BadRequest(f"The body is nested deeper than {MAX_DEPTH} levels.")


def peek(body: bytes) -> tuple[Peek, Fields]:
    """The fields that we go by, and all fields as they came. BadRequest names what is wrong."""
    try:
        fields = _FIELDS.decode(body)
    except msgspec.ValidationError:
        raise BadRequest("The body must be a JSON object.") from None
    except msgspec.DecodeError as error:
        raise BadRequest(f"The body is not JSON: {error}.") from None
    if "model" not in fields:
        raise BadRequest("`model` is missing; GET /v1/models lists the names.", field="model")
    try:
        peeked = _PEEK.decode(body)
    except msgspec.ValidationError as error:
        raise BadRequest(f"{error}.", field=_field_of(str(error))) from None
    _check_peek(peeked)
    return peeked, fields


def _field_of(message: str) -> str | None:
    """The field in msgspec's "... - at `$.metadata[...]`"."""
    _, found, path = message.partition("`$.")
    return path.rstrip("`").partition("[")[0] if found else None


def _check_peek(peeked: Peek) -> None:
    if not peeked.model:
        raise BadRequest("`model` is empty; GET /v1/models lists the names.", field="model")
    for name in ("user", "safety_identifier"):
        if len(getattr(peeked, name) or "") > IDENTIFIER:
            raise BadRequest(f"`{name}` may have {IDENTIFIER} characters.", field=name)
    if peeked.metadata:
        _check_metadata(peeked.metadata)


def _check_metadata(metadata: dict[str, str]) -> None:
    if len(metadata) > METADATA_PAIRS:
        raise BadRequest(f"`metadata` may have {METADATA_PAIRS} pairs.", field="metadata")
    for key, value in metadata.items():
        if len(key) > METADATA_KEY:
            raise BadRequest(
                f"A key of `metadata` may have {METADATA_KEY} characters.", field="metadata"
            )
        if len(value) > METADATA_VALUE:
            raise BadRequest(
                f"A value of `metadata` may have {METADATA_VALUE} characters.", field="metadata"
            )


def rewrite(
    fields: Fields,
    engine_model: str,
    id_field: str | None,
    completion_id: str,
    without: Iterable[str] = (),
) -> bytes:
    """The body for the engine: our `model`, no internal fields, none of `without`, and the answer's
    id where the engine takes it from there."""
    for name in INTERNAL.intersection(fields).union(without):
        fields.pop(name, None)
    fields["model"] = msgspec.Raw(msgspec.json.encode(engine_model))
    if id_field is not None:
        fields[id_field] = msgspec.Raw(msgspec.json.encode(completion_id))
    return msgspec.json.encode(fields)


OURS = frozenset(
    (
        b"authorization",
        b"content-length",
        b"transfer-encoding",
        b"content-type",
        b"x-request-id",
        b"x-data-parallel-rank",
        b"x-learnback-compare",
        AS_TENANT.encode(),
    )
)
"""Headers that we answer for: the engine gets ours, or none."""


def split_headers(headers: Iterable[tuple[bytes, bytes]]) -> tuple[Headers, dict[bytes, bytes]]:
    """Headers that go on to the engine, and those that are about us."""
    kept: Headers = []
    ours: dict[bytes, bytes] = {}
    for header in headers:
        if header[0] in OURS:
            ours[header[0]] = header[1]
        else:
            kept.append(header)
    return kept, ours


def engine_headers(kept: Headers, body: bytes, request_id: str) -> Headers:
    """The headers of the request to the engine."""
    return [
        *kept,
        (b"content-type", JSON),
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", request_id.encode()),
    ]
