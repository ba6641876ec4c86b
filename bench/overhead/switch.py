"""One server that is both: with the middleware under its usual paths, without it under `/raw`."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from learnback.inference.middleware import LearnbackMiddleware

CHAT = "/v1/chat/completions"
PREFIX = "/raw"
RAW = PREFIX + CHAT


class Switch:
    """Given to vLLM as `--middleware`; costs a request of either kind one comparison."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.ours = LearnbackMiddleware(app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The middleware, or the engine as if there were none."""
        if scope["type"] == "http" and scope["path"] == RAW:
            scope["path"] = CHAT
            scope["raw_path"] = CHAT.encode()
            await self.app(scope, receive, send)
        else:
            await self.ours(scope, receive, send)
