"""Asking the inference process for answers of one exact version, as any client would."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import httpx

from learnback.contracts.headers import AS_TENANT
from learnback.core.errors import Unavailable

ATTEMPTS = 4
"""Of one answer: 0.5 + 1 + 2 s of pauses outlast a hiccup; an outage is for the next look."""
FIRST_PAUSE_S = 0.5
TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
LOADING_S = 60.0
"""How long a version may take to be served: a new one is fetched and loaded first."""
PURPOSE = {"learnback_purpose": "evaluation"}


class CandidateFailing(Unavailable):
    """The engine does not answer with the candidate, though it does with the stable version."""


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn: the same for both sides."""

    temperature: float
    max_tokens: int

    def as_parameters(self) -> dict[str, Any]:
        """As fields of a request."""
        return {"temperature": self.temperature, "max_tokens": self.max_tokens}


@dataclass(frozen=True)
class ToolCall:
    """A tool that the model wants called; `arguments` is JSON as the model wrote it."""

    name: str
    arguments: str


@dataclass(frozen=True)
class Answer:
    """A text, or the reason why there is none; `refused`: asking again would not help.

    `cut`: the token limit ended it.
    """

    text: str | None
    error: str | None = None
    refused: bool = False
    calls: tuple[ToolCall, ...] = ()
    cut: bool = False


class Answering(Protocol):
    """Whoever can answer as an exact version: an engine behind HTTP, or one in this process."""

    async def answer(
        self,
        version: str,
        messages: Sequence[dict[str, Any]],
        sampling: Sampling,
        seed: int,
        extra: Mapping[str, Any] | None = None,
        tenant: str | None = None,
    ) -> Answer:
        """One answer; never raises. `extra`: other fields of the request, such as `tools`.
        `tenant`: with whose examples, where the version shows some; None: with our own."""

    async def wait_served(self, version: str) -> str | None:
        """Wait until a version answers; the reason if it does not."""


class Engine:
    """A client of the OpenAI API of the inference process."""

    def __init__(self, client: httpx.AsyncClient, url: str, api_key: str = "") -> None:
        self.client = client
        self.endpoint = f"{url.rstrip('/')}/v1/chat/completions"
        self.headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self.pause_s = FIRST_PAUSE_S

    async def answer(
        self,
        version: str,
        messages: Sequence[dict[str, Any]],
        sampling: Sampling,
        seed: int,
        extra: Mapping[str, Any] | None = None,
        tenant: str | None = None,
    ) -> Answer:
        """One answer of exactly this version; tried again where that may help, never raises."""
        body = {
            **(extra or {}),
            "model": version,
            "messages": list(messages),
            "seed": seed,
            "store": False,
            "metadata": PURPOSE,
            **sampling.as_parameters(),
        }
        found = Answer(None, "not asked")
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(self.pause_s * 2 ** (attempt - 1))
            found = await self._ask(body, tenant)
            if found.text is not None or found.refused:
                return found
        return found

    async def wait_served(self, version: str, timeout_s: float = LOADING_S) -> str | None:
        """Wait until a version answers; the reason if it does not within `timeout_s`."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        hello = [{"role": "user", "content": "Hello"}]
        while True:
            found = await self.answer(version, hello, Sampling(0.0, 1), seed=0)
            if found.text is not None:
                return None
            if asyncio.get_running_loop().time() + self.pause_s > deadline:
                return found.error
            await asyncio.sleep(self.pause_s)

    async def _ask(self, body: dict[str, Any], tenant: str | None) -> Answer:
        headers = self.headers | ({AS_TENANT: tenant} if tenant is not None else {})
        try:
            response = await self.client.post(self.endpoint, json=body, headers=headers)
        except httpx.HTTPError as error:
            return Answer(None, f"{type(error).__name__}: {error}")
        if response.status_code != 200:
            shown = response.text[:300]
            refused = response.status_code not in TRANSIENT
            return Answer(None, f"{response.status_code}: {shown}", refused)
        try:
            return _read(response.json()["choices"][0])
        except (ValueError, LookupError, TypeError) as error:
            return Answer(None, f"unreadable answer: {error}")


def _read(choice: Mapping[str, Any]) -> Answer:
    message = choice["message"]
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    return Answer(
        message.get("content") or "",
        calls=tuple(ToolCall(str(c["name"]), str(c["arguments"])) for c in calls),
        cut=choice.get("finish_reason") == "length",
    )


def seed_of(prompt_key: str) -> int:
    """The sampling seed of a prompt: the same for both sides and for ever."""
    digest = hashlib.sha256(f"learnback/evaluation/{prompt_key}".encode()).digest()
    return int.from_bytes(digest[:4], "big") & 0x7FFFFFFF
