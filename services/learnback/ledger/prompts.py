"""What "the same prompt" means, and which prompts are kept out of training."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from learnback.core.ids import digest_text
from learnback.core.settings import HELD_OUT_SHARE


def prompt_key(messages: Sequence[Mapping[str, Any]]) -> str:
    """SHA-256 of the canonical prompt: roles and contents, NFC, white space folded."""
    canonical = [
        [str(m.get("role", "")), _fold(m.get("content")), _fold(m.get("tool_calls"))]
        for m in messages
    ]
    text = json.dumps(canonical, ensure_ascii=False, separators=(",", ":"))
    return digest_text(text)


def opening_key(key: str, messages: Sequence[Mapping[str, Any]]) -> str:
    """The key of a conversation up to its first turn of the user, of a prompt with this key.

    All turns of a conversation are kept for evaluation or none: a later one holds the earlier ones,
    with their answers.
    """
    turns = (place for place, message in enumerate(messages, 1) if message.get("role") == "user")
    end = next(turns, len(messages))
    return key if end == len(messages) else prompt_key(messages[:end])


def prompt_held_out(opening: str, share: float = HELD_OUT_SHARE) -> bool:
    """Whether the prompts with this opening are kept for evaluation: the same answer for ever, on
    every machine.
    """
    return _bucket("prompt", opening) < share


def rater_held_out(tenant: str, rater_id: str | None, share: float) -> bool:
    """Whether a rater's signals are kept for evaluation; raters without id never are."""
    return rater_id is not None and _bucket("rater", f"{tenant}/{rater_id}") < share


def _bucket(kind: str, key: str) -> float:
    """A number in [0, 1) that depends on nothing but its arguments."""
    digest = hashlib.sha256(f"learnback/{kind}/{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _fold(content: Any) -> Any:
    if isinstance(content, str):
        return " ".join(unicodedata.normalize("NFC", content).split())
    if isinstance(content, list):
        return [_fold(part) for part in content]
    if isinstance(content, dict):
        return {key: _fold(value) for key, value in sorted(content.items())}
    return content
