"""Get an adapter into an engine: ours, through its own app, or others, over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from starlette.types import ASGIApp, Message

from learnback.core.errors import LearnbackError, Unavailable
from learnback.inference.dialects import Dialect, dialect_of
from learnback.inference.errors import VersionUnavailable
from learnback.inference.upstream import Engine
from learnback.inference.upstream_connection import Headers, Request

ASK_S = 5.0
LOAD_S = 120.0
"""Longest load of an adapter over HTTP: weights from a slow volume, behind a long step."""
WARM_UP = {"prompt": "Hi", "max_tokens": 1, "temperature": 0}


class Loader(Protocol):
    """How adapters get into an engine, and what it has."""

    async def load(self, name: str, folder: Path) -> None:
        """Have the adapter in `folder` loaded as `name`, and used once. Idempotent.

        Raises a LearnbackError with the engine's reason.
        """

    async def unload(self, name: str) -> None:
        """Let the engine forget an adapter that answers nobody. Idempotent."""

    async def loaded(self) -> frozenset[str] | None:
        """The adapters that every engine has now; None: nothing is ever lost, so don't ask."""

    async def well(self) -> str | None:
        """A readiness check: None, or what is wrong with the engine."""

    async def context(self) -> int | None:
        """Tokens that the engine holds in one request; None if it does not say."""


class AsgiLoader:
    """vLLM in this process: its resolver loads an adapter when it is first asked for.

    `server` is what the server puts into a request's scope besides the request.
    """

    def __init__(self, app: ASGIApp, server: dict[str, Any]) -> None:
        self.app = app
        self.server = server

    async def load(self, name: str, folder: Path) -> None:
        """Ask the adapter for one token."""
        status, answer = await self._call("POST", "/v1/completions", {"model": name, **WARM_UP})
        if status != 200:
            raise VersionUnavailable(
                f"The engine can't serve {name!r}: {_reason(status, answer)}", field="model"
            )

    async def unload(self, name: str) -> None:
        """What still runs keeps its weights: vLLM only takes no new request for it."""
        status, answer = await self._call("POST", "/v1/unload_lora_adapter", {"lora_name": name})
        if status not in {200, 404}:
            raise VersionUnavailable(f"It can't unload {name!r}: {_reason(status, answer)}")

    async def loaded(self) -> frozenset[str] | None:
        """An engine in our process lives and dies with us."""
        return None

    async def well(self) -> str | None:
        """What vLLM's own `/health` says."""
        status, _ = await self._call("GET", "/health")
        return None if status == 200 else f"the engine's health is {status}"

    async def context(self) -> int | None:
        """What vLLM's list of models says."""
        _, answer = await self._call("GET", "/v1/models")
        return _context(answer)

    async def _call(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> tuple[int, bytes]:
        """One request to the app below us."""
        sent = json.dumps(body).encode() if body is not None else b""
        status = 0
        pieces: list[bytes] = []
        given = False

        async def receive() -> Message:
            nonlocal given
            if given:  # the caller of this is ourselves, and we stay
                await _never()
            given = True
            return {"type": "http.request", "body": sent, "more_body": False}

        async def send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                pieces.append(message.get("body", b""))

        await self.app(_scope(method, path, sent, self.server), receive, send)
        return status, b"".join(pieces)


async def _never() -> None:
    await asyncio.get_running_loop().create_future()


def _scope(method: str, path: str, body: bytes, server: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [
            (b"host", b"localhost"),
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
        ],
        "client": ("127.0.0.1", 0),
        "server": ("127.0.0.1", 0),
        **server,
    }


class HttpLoader:
    """Engines that run elsewhere and can read our cache folder under the same path."""

    def __init__(self, urls: Sequence[str], key: str = "") -> None:
        self.engines = [Engine(url) for url in urls]
        self._dialect: Dialect | None = None
        self._headers: Headers = [(b"content-type", b"application/json")]
        if key:
            self._headers.append((b"authorization", b"Bearer " + key.encode()))

    async def load(self, name: str, folder: Path) -> None:
        """Have every engine that lacks the adapter load it by its path, and all use it once."""
        body = json.dumps({"lora_name": name, "lora_path": str(folder.absolute())}).encode()
        for engine in self.engines:
            cards = await self._cards(engine)
            dialect = dialect_of(cards)
            if all(card["id"] != name for card in cards):
                await self._load(engine, dialect, name, body)
            await self._use(engine, dialect.adapter_model.format(base=cards[0]["id"], adapter=name))

    async def _load(self, engine: Engine, dialect: Dialect, name: str, body: bytes) -> None:
        request = Request("POST", dialect.load_path, self._headers, body)
        status, answer = await engine.fetch(request, LOAD_S)
        if status != 200 and name not in await self._models(engine):  # or a rival was faster
            reason = _refusal(engine.url, dialect, name, status, answer)
            raise VersionUnavailable(reason, field="model")

    async def _use(self, engine: Engine, model: str) -> None:
        """An engine may list an adapter that it can't answer with."""
        body = json.dumps({"model": model, **WARM_UP}).encode()
        request = Request("POST", b"/v1/completions", self._headers, body)
        status, answer = await engine.fetch(request, LOAD_S)
        if status != 200:
            reason = f"The engine at {engine.url} can't answer with {model!r}"
            raise VersionUnavailable(f"{reason}: {_reason(status, answer)}", field="model")

    async def unload(self, name: str) -> None:
        """Nothing: other proxies may stand before the same engines and use it. What an engine has
        no room for it drops itself (`--max-cpu-loras`)."""

    async def loaded(self) -> frozenset[str] | None:
        """An engine that was restarted has lost its adapters."""
        sets = [frozenset(await self._models(engine)) for engine in self.engines]
        return frozenset.intersection(*sets)

    async def well(self) -> str | None:
        """None if any engine answers."""
        reasons = []
        for engine in self.engines:
            try:
                await self._models(engine)
            except LearnbackError as error:
                reasons.append(error.detail)
        return "; ".join(reasons) if len(reasons) == len(self.engines) else None

    async def context(self) -> int | None:
        """The smallest of all engines, since any of them may answer."""
        found = []
        for engine in self.engines:
            request = Request("GET", b"/v1/models", self._headers)
            found.append(_context((await engine.fetch(request, ASK_S))[1]))
        known = [tokens for tokens in found if tokens is not None]
        return min(known) if len(known) == len(found) else None

    async def base_model(self) -> tuple[str, Dialect]:
        """The name of the first engine's first model, its base, and how it is spoken to."""
        cards = await self._cards(self.engines[0])
        if not cards:
            raise Unavailable(f"{self.engines[0].url}/v1/models names no model.")
        return cards[0]["id"], dialect_of(cards)

    def close(self) -> None:
        """Close idle connections."""
        for engine in self.engines:
            engine.close()

    async def _models(self, engine: Engine) -> list[str]:
        """The names that an engine answers to, its base first."""
        return [card["id"] for card in await self._cards(engine)]

    async def _cards(self, engine: Engine) -> list[dict[str, Any]]:
        """An engine's list of models, its base first."""
        status, answer = await engine.fetch(Request("GET", b"/v1/models", self._headers), ASK_S)
        try:
            cards = [dict(model, id=str(model["id"])) for model in json.loads(answer)["data"]]
        except (ValueError, LookupError, TypeError):
            raise Unavailable(f"{engine.url}/v1/models answered {status} without models.") from None
        found = dialect_of(cards)
        self._dialect = self._dialect or found
        if found is not self._dialect:
            raise Unavailable(
                f"The engine at {engine.url} is {found.name}, another one {self._dialect.name}: "
                "all engines behind one proxy must be of one kind."
            )
        return cards


def _context(answer: bytes) -> int | None:
    """`max_model_len` of a list of models, which vLLM gives with each."""
    try:
        found = json.loads(answer)["data"][0]["max_model_len"]
    except (ValueError, LookupError, TypeError):
        return None
    return found if isinstance(found, int) and found > 0 else None


def _reason(status: int, answer: bytes) -> str:
    """The engine's own words, where there are any."""
    try:
        said = json.loads(answer)
        return str(said["error_message"] if "error_message" in said else said["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return f"status {status}: {answer[:200].decode(errors='replace')}"


def _refusal(url: str, dialect: Dialect, name: str, status: int, answer: bytes) -> str:
    """Why an engine did not load an adapter, and what to do."""
    if status in {404, 405, 501} and b'"error"' not in answer:  # the route, not the adapter
        return (
            f"The engine at {url} can't load adapters: it has no {dialect.load_path.decode()}. "
            f"{dialect.advice}"
        )
    if status in {401, 403}:
        return (
            f"The engine at {url} refused our key ({status}); set LEARNBACK_INFERENCE_ENGINE_KEY."
        )
    return f"The engine at {url} can't load {name!r}: {_reason(status, answer)}"
