"""The fake engine with the names that SGLang's server gives to things.

As in its `http_server.py`: adapters are loaded at `/load_lora_adapter`, listed with `owned_by:
sglang`, and asked for as `base:adapter`; any other name is answered by the base. `rid` is the id.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from tests.fake_engine import FakeEngine


@dataclass
class SGLang(FakeEngine):
    """`answered` says what answered each request: the base, or an adapter."""

    adapters: dict[str, str] = field(default_factory=dict)
    answered: list[str] = field(default_factory=list)
    refuses: str = ""
    """Why it loads no adapter."""

    @property
    def app(self) -> Starlette:
        app = super().app
        hidden = {"/v1/load_lora_adapter", "/v1/unload_lora_adapter"}
        app.router.routes = [r for r in app.router.routes if getattr(r, "path", "") not in hidden]
        app.router.routes.append(Route("/load_lora_adapter", self._load, methods=["POST"]))
        return app

    async def _models(self, request: Request) -> Response:
        names = ["base", *self.adapters]
        cards = [{"id": name, "object": "model", "owned_by": "sglang"} for name in names]
        return JSONResponse({"object": "list", "data": cards})

    async def _load(self, request: Request) -> Response:
        body = await request.json()
        if self.refuses:
            return JSONResponse({"success": False, "error_message": self.refuses}, 400)
        self.adapters[body["lora_name"]] = body["lora_path"]
        return JSONResponse({"success": True, "loaded_adapters": self.adapters})

    async def _open(self, request: Request) -> tuple[dict[str, Any], str, Response | None]:
        body, _, error = await super()._open(request)
        _, _, adapter = str(body["model"]).partition(":")
        self.answered.append(adapter or body.get("lora_path") or "base")
        rid = str(body.get("rid") or uuid4().hex)
        return body, rid.removeprefix("chatcmpl-"), error
