"""A judge without a model: an OpenAI-compatible server whose verdicts a test scripts."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from learnback.models.judge import Judge

_PART = re.compile(r"\[([a-zA-Z ]+) [0-9a-f]{10}\]\n(.*?)\n\[end of", re.DOTALL)


@dataclass
class FakeJudge:
    """`says` gets the parts of the question (`request`, `answer A`, ...) and gives the answer.

    `refuses` are fields of a request that it answers with a 400; `fails` are statuses that come
    before any answer, one a request.
    """

    says: Callable[[dict[str, str]], str]
    refuses: frozenset[str] = frozenset()
    fails: list[int] = field(default_factory=list)
    seen: list[dict[str, Any]] = field(default_factory=list)
    most_at_once: int = 0
    _now: int = 0

    def judge(self, **options: Any) -> Judge:
        """A client of it that does not wait between attempts."""
        app = Starlette(routes=[Route("/v1/chat/completions", self._chat, methods=["POST"])])
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://judge")
        return Judge(client, "http://judge/v1", "judge-1", pause_s=0.0, **options)

    async def _chat(self, request: Request) -> Response:
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        await asyncio.sleep(0)  # lets others in
        try:
            return self._answer(await request.json())
        finally:
            self._now -= 1

    def _answer(self, body: dict[str, Any]) -> Response:
        self.seen.append(body)
        if self.fails:
            return JSONResponse({"error": "not now"}, self.fails.pop(0))
        refused = self.refuses & body.keys()
        if refused:
            return JSONResponse({"error": {"message": f"unknown: {sorted(refused)}"}}, 400)
        parts = dict(_PART.findall(body["messages"][-1]["content"]))
        message = {"role": "assistant", "content": self.says(parts)}
        return JSONResponse({"choices": [{"index": 0, "message": message}]})


def prefers(text: str) -> Callable[[dict[str, str]], str]:
    """A judge that knows what it likes, wherever it is shown."""

    def say(parts: dict[str, str]) -> str:
        if "answer" in parts:
            return json.dumps({"reason": "so", "grade": 10 if text in parts["answer"] else 1})
        letters = [k[-1] for k in ("answer A", "answer B") if text in parts[k]]
        return json.dumps({"reason": "so", "better": letters[0] if len(letters) == 1 else "tie"})

    return say
