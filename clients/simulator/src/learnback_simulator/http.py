"""The two public APIs, as a person's program calls them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import httpx

ATTEMPTS = 6
TIMEOUT_S = 300.0


class ServerRefused(RuntimeError):
    """The server answered with an error that a repetition would not mend."""


@dataclass(frozen=True)
class Answer:
    """One answer of the model, as feedback refers to it."""

    completion_id: str
    choice: int
    text: str
    version: str
    tokens: int


class Server:
    """A Learnback server: `ask` its inference API, `prefer` at its feedback API.

    `system` is the system message of the app that people use, before every prompt.
    """

    def __init__(
        self,
        inference: str,
        feedback: str,
        api_key: str | None = None,
        *,
        system: str | None = None,
    ) -> None:
        self.inference = inference.rstrip("/")
        self.feedback = feedback.rstrip("/")
        self.system = system
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        limits = httpx.Limits(max_connections=200)
        self.http = httpx.AsyncClient(
            headers=headers, timeout=TIMEOUT_S, limits=limits, trust_env=False
        )

    async def close(self) -> None:
        """Close all connections."""
        await self.http.aclose()

    async def ask(
        self, model: str, prompt: str, *, n: int, max_tokens: int, user: str, **more: Any
    ) -> list[Answer]:
        """`n` answers to one prompt, in one request."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        body = {
            "model": model,
            "messages": [*system, {"role": "user", "content": prompt}],
            "n": n,
            "max_tokens": max_tokens,
            "user": user,
            **more,
        }
        answer = await self._post(f"{self.inference}/v1/chat/completions", body, {})
        found = answer.json()
        tokens = int((found.get("usage") or {}).get("completion_tokens") or 0)
        version = answer.headers.get("x-learnback-version", found["model"])
        return [
            Answer(
                found["id"],
                choice["index"],
                choice["message"]["content"] or "",
                version,
                tokens // n,
            )
            for choice in found["choices"]
        ]

    async def prefer(self, first: Answer, second: Answer, preferred: str, *, rater: str) -> str:
        """Say which of two answers is liked better; the signal's id. Repeating it is harmless."""
        body = {
            "kind": "preference",
            "first": {"completion_id": first.completion_id, "choice": first.choice},
            "second": {"completion_id": second.completion_id, "choice": second.choice},
            "preferred": preferred,
            "rater": {"id": rater, "kind": "human"},
        }
        key = f"{rater}:{first.completion_id}:{first.choice}:{second.completion_id}:{second.choice}"
        answer = await self._post(
            f"{self.feedback}/v1/feedback", body, {"Idempotency-Key": key[:200]}
        )
        return str(answer.json()["id"])

    async def _post(self, url: str, body: Any, headers: dict[str, str]) -> httpx.Response:
        """Repeats what may succeed later: no connection, 429, 5xx."""
        for attempt in range(ATTEMPTS):
            try:
                answer = await self.http.post(url, json=body, headers=headers)
            except httpx.TransportError:
                if attempt == ATTEMPTS - 1:
                    raise
            else:
                if answer.is_success:
                    return answer
                if answer.status_code != 429 and answer.status_code < 500:
                    raise ServerRefused(f"{url} answered {answer.status_code}: {answer.text[:500]}")
                if attempt == ATTEMPTS - 1:
                    raise ServerRefused(f"{url} answered {answer.status_code}: {answer.text[:500]}")
            await asyncio.sleep(min(0.25 * 2**attempt, 5.0))
        raise AssertionError("unreachable")
