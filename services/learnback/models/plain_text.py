"""Chat messages as roles and texts: what a chat template of a text model renders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class NotPlainText(ValueError):
    """Images, tool calls, or half a character: nothing that a text model reads."""


def plain_messages(prompt: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The messages with their text alone. Raises NotPlainText where that would leave things out."""
    if not prompt:
        raise NotPlainText("there is no message")
    return [{"role": str(m.get("role") or "user"), "content": _content(m)} for m in prompt]


def plain_text(text: str) -> str:
    """The text itself. Raises NotPlainText for half surrogates, which no tokenizer takes."""
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise NotPlainText("the text holds half a character")
    return text


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
