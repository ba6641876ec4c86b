"""The ASGI middleware of `learnback reward-engine`: nobody asks it without the key.

vLLM's own `--api-key` guards what is below `/v1`, and leaves `/classify` open.
"""

from __future__ import annotations

from hmac import compare_digest

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from learnback.core.settings import CommonSettings

OPEN = frozenset(("/health", "/metrics"))
"""What probes and scrapers ask, who have no key."""


class KeyGuard:
    """Answers 401 to requests without `LEARNBACK_REWARD_ENGINE_KEY` as their bearer token."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        key = CommonSettings().reward_engine_key.get_secret_value()
        self._expected = f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let it through, or refuse it."""
        if scope["type"] == "lifespan" or (scope["type"] == "http" and self._may(scope)):
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            said = {"error": {"message": "Send LEARNBACK_REWARD_ENGINE_KEY as a bearer token."}}
            await JSONResponse(said, 401, {"WWW-Authenticate": "Bearer"})(scope, receive, send)
        else:
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "HTTP only"})

    def _may(self, scope: Scope) -> bool:
        if scope["path"] in OPEN:
            return True
        sent = dict(scope["headers"]).get(b"authorization", b"")
        return compare_digest(sent, self._expected)
