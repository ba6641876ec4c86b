"""An engine without a model: the OpenAI API of vLLM, answered by rule and at a chosen pace.

It says back the last words of the prompt, word by word, so that tests know what to expect. Model
names that contain a mode (`error-500`, `torn`, `error-in-stream`, `refuse`) make it fail that way.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

CREATED = 1_763_884_800
ADMIN = (
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
    "/sleep",
    "/collective_rpc",
    "/update_weights",
    "/reset_prefix_cache",
    "/invocations",
)


@dataclass
class FakeEngine:
    """`app` is the ASGI app; `seen` are the requests as they arrived.

    `delay_s` passes before each token. `models` are the names that it knows; None: all.
    """

    delay_s: float = 0.0
    models: set[str] | None = None
    seen: list[dict[str, Any]] = field(default_factory=list)
    admin_calls: list[str] = field(default_factory=list)
    closed_early: int = 0
    mode: str = ""
    """How to fail, whatever the model: `error-500`, `torn`, `error-in-stream`, `refuse`."""
    fails: dict[str, str] = field(default_factory=dict)
    """Modes of single models, by their names."""
    wait: Callable[[], Any] | None = None
    """Awaited before each token, for tests that hold a stream in the middle."""
    context: int | None = None
    """`max_model_len` of its models; None: it does not say."""
    gate: Callable[[str], Any] | None = None
    """Awaited before each answer with the model's name, for tests that hold a load."""

    def hold(self, model: str) -> asyncio.Event:
        """Let `model` answer nobody until the event is set."""
        held = asyncio.Event()

        async def gate(asked: str) -> None:
            if asked == model:
                await held.wait()

        self.gate = gate
        return held

    @property
    def app(self) -> Starlette:
        """The ASGI app."""
        post = {"methods": ["POST"]}
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self._chat, **post),
                Route("/v1/completions", self._completions, **post),
                Route("/v1/responses", self._responses, **post),
                Route("/v1/models", self._models),
                Route("/health", _empty),
                Route("/version", _version),
                Route("/metrics", _metrics),
                *(Route(path, self._admin, methods=["GET", "POST"]) for path in ADMIN),
            ],
            lifespan=_lifespan,
        )

    async def _open(self, request: Request) -> tuple[dict[str, Any], str, Response | None]:
        """The body, the request's id, and an error if the engine refuses."""
        body = await request.json()
        headers = {k.decode(): v.decode() for k, v in request.scope["headers"]}
        self.seen.append({"path": request.url.path, "body": body, "headers": headers})
        mode = self._mode(body) or str(body.get("model"))
        if self.gate is not None:
            await self.gate(str(body.get("model")))
        if self.models is not None and body.get("model") not in self.models:
            return body, "", _error(404, f"The model `{body.get('model')}` does not exist.")
        if "error-500" in mode:
            return body, "", _error(500, "The engine broke.")
        if "refuse" in mode or not _sane(body):
            return body, "", _error(400, "temperature must be a number of at least 0")
        return body, headers.get("x-request-id", "none"), None

    async def _chat(self, request: Request) -> Response:
        body, request_id, error = await self._open(request)
        if error is not None:
            return error
        completion_id = f"chatcmpl-{request_id}"
        words = _words(_last_text(body.get("messages")))
        if body.get("stream"):
            return self._stream(body, self._chat_chunks(body, completion_id, words))
        return JSONResponse(
            {
                "id": completion_id,
                "object": "chat.completion",
                "created": CREATED,
                "model": body["model"],
                "choices": [_chat_choice(body, i, words) for i in range(_n(body))],
                "usage": _usage(words, _n(body)),
            }
        )

    async def _chat_chunks(
        self, body: dict[str, Any], completion_id: str, words: list[str]
    ) -> AsyncIterator[Any]:
        def chunk(choices: list[Any], **more: Any) -> dict[str, Any]:
            return {
                "id": completion_id,
                "object": "chat.completion.chunk",
                "created": CREATED,
                "model": body["model"],
                "choices": choices,
                **more,
            }

        for index in range(_n(body)):
            delta: dict[str, Any] = {"role": "assistant", "content": ""}
            yield chunk([{"index": index, "delta": delta, "finish_reason": None}])
        for index in range(_n(body)):
            for delta in _chat_deltas(body, words):
                yield chunk([{"index": index, "delta": delta, "finish_reason": None}])
            reason = "tool_calls" if body.get("tools") else "stop"
            yield chunk([{"index": index, "delta": {}, "finish_reason": reason}])
        if (body.get("stream_options") or {}).get("include_usage"):
            yield chunk([], usage=_usage(words, _n(body)))

    async def _completions(self, request: Request) -> Response:
        body, request_id, error = await self._open(request)
        if error is not None:
            return error
        completion_id = f"cmpl-{request_id}"
        prompt = body.get("prompt")
        words = _words(prompt if isinstance(prompt, str) else "tokens")
        head = {"id": completion_id, "object": "text_completion", "created": CREATED}
        head["model"] = body["model"]

        async def chunks() -> AsyncIterator[Any]:
            for index in range(_n(body)):
                for at, word in enumerate(words):
                    reason = "stop" if at == len(words) - 1 else None
                    yield {
                        **head,
                        "choices": [{"index": index, "text": word, "finish_reason": reason}],
                    }

        if body.get("stream"):
            return self._stream(body, chunks())
        text = (str(prompt) if body.get("echo") else "") + "".join(words)
        choices = [{"index": i, "text": text, "finish_reason": "stop"} for i in range(_n(body))]
        return JSONResponse({**head, "choices": choices, "usage": _usage(words, _n(body))})

    async def _responses(self, request: Request) -> Response:
        body, _, error = await self._open(request)
        if error is not None:
            return error
        given = body.get("input")
        words = _words(given if isinstance(given, str) else _last_text(given))
        whole = _response(body, words)
        if not body.get("stream"):
            return JSONResponse(whole)

        async def events() -> AsyncIterator[Any]:
            yield {"type": "response.created", "response": {**whole, "output": [], "usage": None}}
            item = {"type": "message", "id": "msg_1", "role": "assistant", "content": []}
            yield {"type": "response.output_item.added", "output_index": 0, "item": item}
            for word in words:
                yield {"type": "response.output_text.delta", "output_index": 0, "delta": word}
            done = whole["output"][0]
            yield {"type": "response.output_item.done", "output_index": 0, "item": done}
            yield {"type": "response.completed", "response": whole}

        return self._stream(body, events(), named=True)

    def _mode(self, body: dict[str, Any]) -> str:
        return self.mode or self.fails.get(str(body.get("model")), "")

    def _stream(
        self, asked: dict[str, Any], chunks: AsyncIterator[Any], *, named: bool = False
    ) -> Response:
        async def body() -> AsyncIterator[bytes]:
            sent, mode = 0, self._mode(asked)
            try:
                async for chunk in chunks:
                    await self._pace()
                    if sent == 2 and "error-in-stream" in mode:
                        yield _event({"error": {"message": "The engine broke.", "code": 500}})
                        break
                    if sent == 2 and "torn" in mode:
                        raise RuntimeError("the engine died")
                    yield _event(chunk, chunk["type"] if named else None)
                    sent += 1
                if not named:
                    yield b"data: [DONE]\n\n"
            except (GeneratorExit, asyncio.CancelledError):
                self.closed_early += 1
                raise

        return StreamingResponse(body(), media_type="text/event-stream")

    async def _pace(self) -> None:
        if self.wait is not None:
            await self.wait()
        if self.delay_s:
            await asyncio.sleep(self.delay_s)

    async def _models(self, request: Request) -> Response:
        names = sorted(self.models or {"base"})
        known = {} if self.context is None else {"max_model_len": self.context}
        return JSONResponse({"object": "list", "data": [{"id": n, **known} for n in names]})

    async def _admin(self, request: Request) -> Response:
        self.admin_calls.append(request.url.path)
        if request.url.path == "/v1/load_lora_adapter" and self.models is not None:
            self.models.add((await request.json())["lora_name"])
        return PlainTextResponse("done")


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    yield


async def _empty(request: Request) -> Response:
    return Response()


async def _version(request: Request) -> Response:
    return JSONResponse({"version": "0"})


async def _metrics(request: Request) -> Response:
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


def _error(status: int, message: str) -> Response:
    body = {"message": message, "type": "BadRequestError", "param": None, "code": status}
    return JSONResponse({"error": body}, status)


def _event(data: dict[str, Any], name: str | None = None) -> bytes:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


def _sane(body: dict[str, Any]) -> bool:
    temperature = body.get("temperature")
    fine = temperature is None or (
        isinstance(temperature, int | float) and not isinstance(temperature, bool)
    )
    return fine and (temperature is None or temperature >= 0) and _n(body) <= 64


def _n(body: dict[str, Any]) -> int:
    n = body.get("n")
    return n if isinstance(n, int) and n > 0 else 1


def _words(text: str) -> list[str]:
    """The answer to a text: it said back, as tokens that begin with their space."""
    words = text.split() or ["nothing"]
    return [word if at == 0 else f" {word}" for at, word in enumerate(words)]


def _last_text(messages: Any) -> str:
    for message in reversed(messages if isinstance(messages, list) else []):
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, str):
            return content
        if isinstance(content, list):
            return " ".join(str(p.get("text", "")) for p in content if isinstance(p, dict))
    return ""


def _tool(body: dict[str, Any]) -> str:
    return str(body["tools"][0].get("function", body["tools"][0]).get("name"))


def _chat_deltas(body: dict[str, Any], words: list[str]) -> list[dict[str, Any]]:
    if not body.get("tools"):
        return [{"content": word} for word in words]
    arguments = json.dumps({"said": "".join(words)})
    first = {"index": 0, "id": "call_1", "type": "function"}
    pieces = [arguments[at : at + 5] for at in range(0, len(arguments), 5)]
    return [
        {"tool_calls": [{**first, "function": {"name": _tool(body), "arguments": ""}}]},
        *({"tool_calls": [{"index": 0, "function": {"arguments": p}}]} for p in pieces),
    ]


def _chat_choice(body: dict[str, Any], index: int, words: list[str]) -> dict[str, Any]:
    if not body.get("tools"):
        message: dict[str, Any] = {"role": "assistant", "content": "".join(words)}
        return {"index": index, "message": message, "finish_reason": "stop"}
    function = {"name": _tool(body), "arguments": json.dumps({"said": "".join(words)})}
    call = {"id": "call_1", "type": "function", "function": function}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    return {"index": index, "message": message, "finish_reason": "tool_calls"}


def _response(body: dict[str, Any], words: list[str]) -> dict[str, Any]:
    part = {"type": "output_text", "text": "".join(words), "annotations": []}
    message = {"type": "message", "id": "msg_1", "role": "assistant", "content": [part]}
    return {
        "id": body.get("request_id", "resp_none"),
        "object": "response",
        "created_at": CREATED,
        "model": body["model"],
        "status": "completed",
        "output": [message],
        "usage": {"input_tokens": 3, "output_tokens": len(words), "total_tokens": 3 + len(words)},
    }


def _usage(words: list[str], n: int) -> dict[str, int]:
    return {"prompt_tokens": 3, "completion_tokens": n * len(words), "total_tokens": 3}
