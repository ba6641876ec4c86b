"""A fast engine without a model: what is left of a request is HTTP and what we put before it.

`python -m bench.overhead.mock PORT raw`, `... middleware`, `... proxy ENGINE_URL` (with the
middleware) or `... bare-proxy ENGINE_URL`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import uvicorn

TOKENS = 64
"""Events of a streamed answer, and words of one that is not."""
WORDS = ("the ", "quick ", "brown ", "fox ", "jumps ", "over ", "lazy ", "dogs ")


def _chunk(index: int) -> bytes:
    delta: dict[str, Any] = {"content": WORDS[index % len(WORDS)]}
    if index == 0:
        delta["role"] = "assistant"
    last = index == TOKENS - 1
    choice = {"index": 0, "delta": delta, "finish_reason": "stop" if last else None}
    body = _head("chat.completion.chunk") | {"choices": [choice | {"logprobs": None}]}
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


def _head(kind: str) -> dict[str, Any]:
    name = "chatcmpl-0193a0b2-7c3d-7e4f-8a5b-6c7d8e9f0a1b"
    return {"id": name, "object": kind, "created": 1_790_000_000, "model": "mock"}


def _completion() -> bytes:
    text = "".join(WORDS[i % len(WORDS)] for i in range(TOKENS))
    message = {"role": "assistant", "content": text, "tool_calls": [], "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    usage = {"prompt_tokens": 180, "completion_tokens": TOKENS, "total_tokens": 180 + TOKENS}
    return json.dumps(_head("chat.completion") | {"choices": [choice], "usage": usage}).encode()


CHUNKS = [*(_chunk(i) for i in range(TOKENS)), b"data: [DONE]\n\n"]
WHOLE = _completion()
MODELS = json.dumps({"object": "list", "data": [{"id": "mock", "object": "model"}]}).encode()
STREAM_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8")]


async def engine(scope: Any, receive: Any, send: Any) -> None:
    """Answers any request at once, with one write for each event as a real engine has."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    if scope["path"] == "/v1/models":
        await _whole(send, MODELS)
        return
    if b'"stream":true' not in body and b'"stream": true' not in body:
        await _whole(send, WHOLE)
        return
    await _start(send, STREAM_HEADERS)
    for chunk in CHUNKS:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await asyncio.sleep(0)  # so that the server writes each by itself
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _lifespan(receive: Any, send: Any) -> None:
    for event in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{event}.complete"})


async def _whole(send: Any, body: bytes) -> None:
    length = (b"content-length", b"%d" % len(body))
    await _start(send, [(b"content-type", b"application/json"), length])
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _start(send: Any, headers: list[tuple[bytes, bytes]]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": headers})


def app(kind: str, url: str) -> Any:
    """The engine alone, with the middleware, behind the proxy, or behind both."""
    if kind == "raw":
        return engine
    inner: Any = engine
    if "proxy" in kind:
        from learnback.inference.proxy import create_app

        inner = create_app([url])
    if kind == "bare-proxy":
        return inner
    from learnback.inference.middleware import LearnbackMiddleware
    from learnback.inference.services import before_engines, inside_vllm

    return LearnbackMiddleware(inner, before_engines if kind == "proxy" else inside_vllm)


def main() -> None:
    port, kind, *url = sys.argv[1:]
    uvicorn.run(
        app(kind, url[0] if url else ""),
        host="127.0.0.1",
        port=int(port),
        log_level="warning",
        access_log=False,
        http="httptools",
        loop="uvloop",
        lifespan="on",
    )


if __name__ == "__main__":
    main()
