"""Two answers as one: what the client gets of a pair. Pure.

Whole answers become one with two choices. Streams become one whose chunks say by `choices[].index`
which answer they belong to, as OpenAI's do for `n: 2`. Each choice has the id of its own
completion; nothing says which version is which.
"""

from __future__ import annotations

from typing import Any

import msgspec

from learnback.core.errors import Unavailable
from learnback.inference.errors import openai_error

DONE = b"data: [DONE]\n\n"
BROKEN = "error"
"""`finish_reason` of an answer that broke off beside one that did not; vLLM's own word for it."""
TOKENS = ("prompt_tokens", "completion_tokens", "total_tokens")


def merged(pair: str, model: str, found: list[dict[str, Any]]) -> bytes:
    """One answer with both as its choices."""
    choices = [
        {**one["choices"][0], "index": index, "completion_id": one["id"]}
        for index, one in enumerate(found)
    ]
    usage = _total([one.get("usage") or {} for one in found])
    whole = {**found[0], "id": pair, "model": model, "choices": choices, "usage": usage}
    return msgspec.json.encode(whole)


class Merging:
    """The chunks of two streams on their way into one."""

    def __init__(self, pair: str, model: str) -> None:
        self._pair = pair
        self._model = model
        self._head: dict[str, Any] = {}
        """Fields of the last chunk, for those that we write ourselves."""
        self._usage: list[dict[str, Any]] = []
        self._ids = ["", ""]
        self._ended = [False, False]
        """Whether it has a `finish_reason`."""
        self._broken = [False, False]
        self._chat = True

    def chunk(self, place: int, data: bytes) -> bytes:
        """A chunk of one of them as an event of both; nothing for what is said at the end."""
        chunk = read_chunk(data)
        if chunk is None or chunk.get("error") is not None:
            return b""
        self._head = {**chunk, "id": self._pair, "model": self._model}
        self._ids[place] = str(chunk.get("id"))
        if not chunk.get("choices"):
            self._usage.append(chunk.get("usage") or {})
            return b""
        choices = [self._choice(place, one) for one in chunk["choices"]]
        return _event({**self._head, "choices": choices})

    def _choice(self, place: int, choice: dict[str, Any]) -> dict[str, Any]:
        self._chat = "text" not in choice
        self._ended[place] = self._ended[place] or choice.get("finish_reason") is not None
        return {**choice, "index": place, "completion_id": self._ids[place]}

    def break_off(self, place: int) -> bytes:
        """The last event of an answer that broke off; nothing if all of it was said."""
        if self._ended[place]:
            return b""
        self._broken[place] = True
        empty: dict[str, Any] = {"delta": {}} if self._chat else {"text": ""}
        choice = self._choice(place, {**empty, "finish_reason": BROKEN})
        return _event(self._without_usage() | {"choices": [choice]})

    def close(self) -> bytes:
        """The end of the stream: the tokens of both, if they were asked for, or an error if neither
        is whole."""
        if all(self._broken):
            return failure()
        if not self._usage:
            return DONE
        usage = _total(self._usage)
        return _event(self._head | {"choices": [], "usage": usage}) + DONE

    def _without_usage(self) -> dict[str, Any]:
        return {name: value for name, value in self._head.items() if name != "usage"}


def read_chunk(data: bytes) -> dict[str, Any] | None:
    """A chunk of a stream; None for what ends it, and for what is none."""
    try:
        chunk = msgspec.json.decode(data)
    except msgspec.DecodeError:
        return None
    return chunk if isinstance(chunk, dict) else None


def failure() -> bytes:
    """The end of a stream of which neither answer is whole."""
    return b"data: " + openai_error(Unavailable("Neither version answered.")) + b"\n\n" + DONE


def _event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"


def _total(used: list[dict[str, Any]]) -> dict[str, int]:
    """The tokens of both."""
    return {name: sum(int(usage.get(name) or 0) for usage in used) for name in TOKENS}
