"""A language model as a judge, behind any server with the OpenAI API.

It never raises for what a judge can do wrong: a comparison or a grade that can't be had is None
with its error, so that no failure becomes a score.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import httpx

from learnback.core.ids import digest_text
from learnback.models.judging import (
    RUBRIC,
    Comparison,
    Preferred,
    Unreadable,
    agree,
    ask_to_compare,
    ask_to_rate,
    read_grade,
    read_rubric,
    read_verdict,
    schema,
    swapped,
    tally,
)

__all__ = ["RUBRIC", "Comparison", "Judge", "Rating", "read_rubric", "tally"]

ATTEMPTS = 3
"""Of one question: pauses of 0.5 and 1 s outlast a hiccup, not an outage."""
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0
"""However long a server asks us to wait, somebody waits for the score."""
TRANSIENT = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
REFUSED_FIELDS = frozenset({400, 422})
"""What servers answer to a field that they do not know."""
MAX_TOKENS = 1024
"""Of one verdict: a sentence and a letter, with room for models that think first."""
FORMAT = "1"
"""Of our own words to the judge; part of its version."""


@dataclass(frozen=True)
class Rating:
    """A grade in [0, 1], or the error that stood in its way."""

    score: float | None
    error: str | None = None


class Judge:
    """Compares and grades. One instance, many callers: at most `concurrency` questions at once.

    `client` brings the timeout and is the caller's to close.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        url: str,
        model: str,
        *,
        api_key: str = "",
        rubric: str = RUBRIC,
        concurrency: int = 8,
        pause_s: float = FIRST_PAUSE_S,
    ) -> None:
        self.client = client
        self.endpoint = f"{url.rstrip('/').removesuffix('/v1')}/v1/chat/completions"
        self.headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self.model = model
        self.rubric = rubric
        self.pause_s = pause_s
        self._turns = asyncio.Semaphore(concurrency)
        self._dialect = 0

    @property
    def version(self) -> str:
        """Changes whenever the same answer could be judged otherwise: by model or by rubric."""
        said = f"{FORMAT}\n{self.model}\n{self.rubric}"
        return f"{self.model}-{digest_text(said)[:12]}"

    async def compare(
        self, prompt: Sequence[Mapping[str, Any]], first: str, second: str
    ) -> Comparison:
        """Which answer is better, asked in both orders; never raises."""
        there, back = await asyncio.gather(
            self._compare(prompt, first, second), self._compare(prompt, second, first)
        )
        for said in (there, back):
            if isinstance(said, Failed):
                return Comparison(None, said.error)
        return agree(there, swapped(back))  # type: ignore[arg-type]  # neither has failed

    async def rate(self, prompt: Sequence[Mapping[str, Any]], answer: str) -> Rating:
        """How good one answer is, from 0 to 1; never raises."""
        said = await self._ask(ask_to_rate(self.rubric, prompt, answer), "grade")
        if isinstance(said, Failed):
            return Rating(None, said.error)
        try:
            return Rating(read_grade(said))
        except Unreadable as error:
            return Rating(None, str(error))

    async def _compare(
        self, prompt: Sequence[Mapping[str, Any]], shown_first: str, shown_last: str
    ) -> Preferred | Failed:
        messages = ask_to_compare(self.rubric, prompt, shown_first, shown_last)
        said = await self._ask(messages, "better")
        if isinstance(said, Failed):
            return said
        try:
            return read_verdict(said)
        except Unreadable as error:
            return Failed(str(error))

    async def _ask(
        self, messages: list[dict[str, str]], field: Literal["better", "grade"]
    ) -> str | Failed:
        """The judge's words. Tried again where that may help; fields it refuses are left out."""
        attempt, dialect = 1, self._dialect
        while True:
            body = {"model": self.model, "messages": messages} | DIALECTS[dialect](field)
            async with self._turns:
                found = await self._post(body)
            if isinstance(found, str):
                self._dialect = max(self._dialect, dialect)
                return found
            if found.status in REFUSED_FIELDS and dialect + 1 < len(DIALECTS):
                dialect += 1
                continue
            if not found.transient or attempt >= ATTEMPTS:
                return found
            pause = found.retry_after_s or self.pause_s * 2 ** (attempt - 1)
            await asyncio.sleep(min(pause, LONGEST_PAUSE_S))
            attempt += 1

    async def _post(self, body: dict[str, Any]) -> str | Failed:
        try:
            response = await self.client.post(self.endpoint, json=body, headers=self.headers)
        except (httpx.HTTPError, UnicodeError) as error:
            away = isinstance(error, httpx.TransportError)
            return Failed(f"{type(error).__name__}: {error}", transient=away)
        if response.status_code != 200:
            return _refused(response)
        try:
            message = response.json()["choices"][0]["message"]
            text = message.get("content") or message.get("refusal")
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            return Failed(f"the judge's answer has another shape: {type(error).__name__}: {error}")
        return str(text) if text else Failed("the judge said nothing")


@dataclass(frozen=True)
class Failed:
    """Why there is no answer; `transient`: asking again may help."""

    error: str
    status: int | None = None
    transient: bool = False
    retry_after_s: float | None = None


def _refused(response: httpx.Response) -> Failed:
    asked = response.headers.get("retry-after", "")
    return Failed(
        f"{response.status_code}: {response.text[:300]}",
        status=response.status_code,
        transient=response.status_code in TRANSIENT,
        retry_after_s=float(asked) if asked.isdigit() else None,
    )


def _plain(field: Literal["better", "grade"]) -> dict[str, Any]:
    return {}


def _held_to_a_schema(field: Literal["better", "grade"]) -> dict[str, Any]:
    held = {"name": "verdict", "schema": schema(field), "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": held}}


def _classic(field: Literal["better", "grade"]) -> dict[str, Any]:
    return _held_to_a_schema(field) | {"temperature": 0.0, "max_tokens": MAX_TOKENS}


def _reasoning(field: Literal["better", "grade"]) -> dict[str, Any]:
    return _held_to_a_schema(field) | {"max_completion_tokens": MAX_TOKENS}


def _without_schema(field: Literal["better", "grade"]) -> dict[str, Any]:
    return {"temperature": 0.0, "max_tokens": MAX_TOKENS}


DIALECTS = _classic, _reasoning, _without_schema, _plain
"""What servers understand: most of them the first, OpenAI's reasoning models the second, small or
old engines one of the others. What was refused once is not tried again."""
