"""The asynchronous client."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Literal, Self, TypeVar, Unpack

import httpx

from learnback_client import _exchange, _requests, signals
from learnback_client._exchange import Reply, Send, Steps
from learnback_client._retry import RetryPolicy
from learnback_client._types import BatchResult, Completion, Deleted, Feedback, Page, Received
from learnback_client.signals import Answer, Common, Preferred, Signal, Text

R = TypeVar("R")


class AsyncLearnback:
    """A connection to Learnback's feedback service, for asyncio.

    `base_url` and `api_key` default to `LEARNBACK_FEEDBACK_URL` (or this machine) and
    `LEARNBACK_API_KEY`. `timeout_s` counts for each attempt. Raises the errors of
    `learnback_client._errors`. An `http_client` of your own brings its own base URL, headers and
    timeouts, and is closed with this one. Tasks may share it.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_s: float = 10.0,
        retry: RetryPolicy = RetryPolicy(),
        http_client: httpx.AsyncClient | None = None,
    ) -> None:
        self.retry = retry
        self._http = http_client or httpx.AsyncClient(
            **_exchange.options(base_url, api_key, timeout_s)
        )

    async def thumbs(
        self,
        completion_id: str,
        value: Literal["up", "down"],
        *,
        choice: int = 0,
        **common: Unpack[Common],
    ) -> Received:
        """Say thumb up or down."""
        return await self.send(signals.thumbs(completion_id, value, choice=choice, **common))

    async def rating(
        self,
        completion_id: str,
        value: float,
        *,
        scale: tuple[float, float] = (1, 5),
        choice: int = 0,
        **common: Unpack[Common],
    ) -> Received:
        """Rate an answer on a scale (least, most)."""
        return await self.send(
            signals.rating(completion_id, value, scale=scale, choice=choice, **common)
        )

    async def preference(
        self,
        first: str | Answer | Text,
        second: str | Answer | Text,
        preferred: Preferred,
        *,
        strength: float = 1.0,
        **common: Unpack[Common],
    ) -> Received:
        """Say which of two answers is better, in the order in which they were shown."""
        return await self.send(
            signals.preference(first, second, preferred, strength=strength, **common)
        )

    async def correction(
        self, completion_id: str, text: str, *, choice: int = 0, **common: Unpack[Common]
    ) -> Received:
        """Say what the answer should have been."""
        return await self.send(signals.correction(completion_id, text, choice=choice, **common))

    async def comment(self, completion_id: str, text: str, **common: Unpack[Common]) -> Received:
        """Say something about a completion."""
        return await self.send(signals.comment(completion_id, text, **common))

    async def outcome(
        self, session_id: str, name: str, value: float, **common: Unpack[Common]
    ) -> Received:
        """Say how a session ended."""
        return await self.send(signals.outcome(session_id, name, value, **common))

    async def send(self, signal: Signal, *, dry_run: bool = False) -> Received:
        """Send a signal made by `learnback_client.signals`; `dry_run` only has it checked."""
        return await self._run(_exchange.call(_requests.send(signal, dry_run=dry_run), self.retry))

    async def send_batch(self, items: Sequence[Signal]) -> Sequence[BatchResult]:
        """Send many signals, with a result for each; a bad one does not stop the others."""
        return await self._run(_exchange.call_in_batches(items, self.retry))

    async def get(self, feedback_id: str) -> Feedback:
        """A signal, and what became of it."""
        return await self._run(_exchange.call(_requests.get(feedback_id), self.retry))

    async def wait_until_joined(
        self, feedback_id: str, *, timeout_s: float = 60.0, interval_s: float = 0.5
    ) -> Feedback:
        """Wait until a signal found its completion, or came to an end without one.

        Raises NotJoinedError after `timeout_s` seconds.
        """
        steps = _exchange.wait_until_joined(
            feedback_id, self.retry, timeout_s=timeout_s, interval_s=interval_s
        )
        return await self._run(steps)

    async def supersede(self, feedback_id: str, signal: Signal) -> Received:
        """Put a new signal in the place of an old one; it gets an id of its own."""
        return await self._run(_exchange.call(_requests.supersede(feedback_id, signal), self.retry))

    async def withdraw(self, feedback_id: str) -> Feedback:
        """Take a signal back, also after it was trained on."""
        return await self._run(_exchange.call(_requests.withdraw(feedback_id), self.retry))

    async def list(
        self,
        *,
        completion_id: str | None = None,
        status: str | None = None,
        kind: str | None = None,
        after: str | None = None,
        limit: int = 20,
    ) -> Page[Feedback]:
        """Signals, newest first."""
        request = _requests.list_feedback(
            completion_id=completion_id, status=status, kind=kind, after=after, limit=limit
        )
        return await self._run(_exchange.call(request, self.retry))

    async def completion(self, completion_id: str) -> Completion:
        """A recorded completion, with its rewards."""
        return await self._run(_exchange.call(_requests.completion(completion_id), self.retry))

    async def list_completions(
        self,
        *,
        metadata: Mapping[str, str] | None = None,
        session: str | None = None,
        version: str | None = None,
        after: str | None = None,
        limit: int = 20,
    ) -> Page[Completion]:
        """Recorded completions, newest first; all of `metadata` must hold."""
        request = _requests.list_completions(
            metadata, session=session, version=version, after=after, limit=limit
        )
        return await self._run(_exchange.call(request, self.retry))

    async def erase_completion(self, completion_id: str) -> Deleted:
        """Erase a completion and all feedback about it, for ever."""
        request = _requests.erase_completion(completion_id)
        return await self._run(_exchange.call(request, self.retry))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _run(self, steps: Steps[R]) -> R:
        """Carry out the steps of an exchange."""
        result: Reply | httpx.TransportError | None = None
        while True:
            try:
                step = steps.send(result)
            except StopIteration as end:
                done: R = end.value
                return done
            if isinstance(step, Send):
                result = await self._send(step)
            else:
                await asyncio.sleep(step.seconds)
                result = None

    async def _send(self, step: Send) -> Reply | httpx.TransportError:
        request = step.request
        try:
            response = await self._http.request(
                request.method,
                request.path,
                json=request.body,
                params=dict(request.query),
                headers=dict(request.headers),
            )
        except httpx.TransportError as error:
            return error
        return Reply(response.status_code, response.headers, response.content)
