"""Chat messages as roles and texts: what a chat template of a text model renders."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_HALF = re.compile("[\ud800-\udfff]")


class NotPlainText(ValueError):
    """Images, tool calls, or half a character: nothing that a text model reads."""


def plain_messages(prompt: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The messages with their text alone. Raises NotPlainText where that would leave things out."""
    if not prompt:
        raise NotPlainText("there is no message")
    return [{"role": str(m.get("role") or "user"), "content": _content(m)} for m in prompt]


def plain_text(text: str) -> str:
    """The text itself. Raises NotPlainText for half surrogates, which no tokenizer takes."""
    if holds_half(text):
        raise NotPlainText("the text holds half a character")
    return text


def holds_half(text: str) -> bool:
    """Whether there is half a character in it, such as a torn emoji."""
    return _HALF.search(text) is not None


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if message.get("tool_calls") or message.get("role") == "tool":
        raise NotPlainText("a message is of tools, not of text")
    if isinstance(content, str):
        return plain_text(content)
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, Mapping) else None for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise NotPlainText("a message holds more than text")
    return plain_text("".join(str(text) for text in texts))
