"""Judges what needs no learning: emptiness, degeneration, refusals, cut-off and shapeless answers.

The score is 0 for an answer with nothing wrong and falls by the penalty of each fault, so it says
"broken", not "good"; the components say which fault.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Sequence

from learnback.reward.scorers.base import Answer, Verdict

PENALTIES = {
    "empty": 3.0,
    "degenerate": 2.0,
    "refusal": 1.0,
    "truncated": 0.5,
    "overlong": 0.5,
    "garbled": 1.0,
    "unclosed_code": 0.5,
}
"""How much each fault costs. An empty answer is worse than any other that has words."""
LONG_WORDS = 800
"""Words above which an answer is overlong, whatever was asked."""
REPEATED_SHARE = 0.5
"""Share of repeated word triples above which a text of some length runs in circles."""
COMPRESSES_TO = 0.2
"""Prose compresses to about half; below a fifth it says the same thing over and over."""
SHORT_CHARACTERS = 200
"""Below this neither measure of repetition means anything."""

_REFUSAL = re.compile(
    r"\b(?:i(?:['’]m| am) sorry,? but|i can(?:no|['’])t (?:help|assist|answer|do|provide)|"
    r"i(?:['’]m| am) (?:unable|not able) to|as an ai(?: language model)?\b)",
    re.IGNORECASE,
)
_GARBLED = re.compile("\ufffd|[\x00-\x08\x0b\x0c\x0e-\x1f]")


class RuleScorer:
    """The rules; `version` counts changes to any of them."""

    name = "rules"
    version = "1"
    slow = False

    async def score(self, answers: Sequence[Answer]) -> list[Verdict]:
        """See `verdict`."""
        return await asyncio.to_thread(lambda: [verdict(answer) for answer in answers])


def verdict(answer: Answer) -> Verdict:
    """0 minus the penalties of the faults found; components hold each fault's share, 0 to 1."""
    faults = _faults(answer)
    words = float(len(answer.text.split()))
    total = sum(PENALTIES[name] * found for name, found in faults.items())
    return Verdict(-total if total else 0.0, components={"words": words, **faults})


def _faults(answer: Answer) -> dict[str, float]:
    text = answer.text.strip()
    garbled = len(_GARBLED.findall(text)) / max(len(text), 1)
    return {
        "empty": float(not text),
        "degenerate": float(is_degenerate(text)),
        "refusal": float(_REFUSAL.search(text[:400]) is not None),
        "truncated": float(answer.finish_reason == "length"),
        "overlong": float(len(text.split()) > LONG_WORDS),
        "garbled": min(1.0, 20 * garbled),
        "unclosed_code": float(text.count("```") % 2),
    }


def is_degenerate(text: str) -> bool:
    """Whether a text runs in circles: the same words, or the same characters, again and again."""
    if len(text) < SHORT_CHARACTERS:
        return False
    words = text.lower().split()
    triples = list(zip(words, words[1:], words[2:], strict=False))
    repeated = 1 - len(set(triples)) / len(triples) if triples else 0.0
    raw = text.encode("utf-8", "surrogatepass")
    return repeated > REPEATED_SHARE or len(zlib.compress(raw)) / len(raw) < COMPRESSES_TO
