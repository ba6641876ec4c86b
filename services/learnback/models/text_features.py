"""What a linear reward model sees of an answer: about forty numbers of style, and hashed words.

Pure functions of the prompt and the answer: no training, no model, the same on every machine. The
style features are what
people are known to react to (length, tone, politeness, layout, repetition); the hashed words catch
what nobody thought of.
"""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

BUCKETS = 1024
"""Hash buckets for words and word pairs: few enough to fit in milliseconds, and under a strong
penalty a clash costs little."""

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_SENTENCE = re.compile(r"[^.!?…\n]+[.!?…]*")
_LIST_MARKER = re.compile(r"^\s*(?:[-*•+]|\d{1,2}[.)])\s", re.MULTILINE)
_FORMATTING = re.compile(r"\*\*|__|^#{1,6}\s|`", re.MULTILINE)
_NOT_LATIN = re.compile("[^\x00-\u024f]")
_EMOJI = re.compile("[\u2600-\u27bf\U0001f300-\U0001faff]|[:;]-?[)D]")
_CLOSED = (".", "!", "?", '"', "”", "’", ")", "*", "…", "`", ":)")


def _lexicon(words: str) -> frozenset[str]:
    return frozenset(words.split())


FIRST_PERSON = _lexicon(
    "i me my mine myself i'm i've i'll i'd we us our ours ourselves we're we've we'll"
)
SECOND_PERSON = _lexicon("you your yours yourself yourselves you're you've you'll you'd let's")
POSITIVE = _lexicon(
    "amazing awesome beautiful best better bright charming cheerful comfort cosy cozy delicious "
    "delight delightful easy "
    "enjoy enjoyable excellent excited exciting fantastic favorite favourite fine fresh friend "
    "friendly fun glad good "
    "gorgeous great happiness happy healthy helpful hope hopeful inspiring joy joyful kind laugh "
    "lively love loved lovely "
    "lucky magic magical nice peaceful perfect perfectly playful pleasant pleased positive pretty "
    "proud refreshing relax "
    "relaxing rich safe smile special splendid strong success sunny sunshine superb sweet thrilled "
    "vibrant warm warmth well "
    "wonder wonderful wow yay yes"
)
NEGATIVE = _lexicon(
    "afraid alas angry annoying awful bad boring broken cold cruel danger dangerous dark dead "
    "difficult dirty dull evil "
    "fail failure fear gloomy hard harm hate horrible hurt ill impossible lonely lose lost "
    "miserable never no nor not "
    "pain poor problem sad scary sick sorrow sorry stupid terrible tired trouble ugly "
    "unfortunately unhappy useless weak "
    "worry worse worst wrong"
)
POLITE = _lexicon(
    "appreciate cheers congratulations dear goodbye greetings hello hey hi kindly pardon please "
    "pleasure thank thanks "
    "welcome"
)
HEDGES = _lexicon(
    "about apparently around could generally likely may maybe might often perhaps possibly "
    "probably roughly seem seems "
    "somewhat sometimes usually"
)
REASONS = _lexicon(
    "because since therefore thus hence so example instance first second then finally also however"
)
REFUSALS = (
    "i cannot",
    "i can't",
    "i can’t",
    "i'm sorry",
    "i’m sorry",
    "as an ai",
    "unable to",
    "not able to",
)


class Text(NamedTuple):
    """An answer and what is counted in it, taken apart once."""

    raw: str
    words: list[str]
    counts: Counter[str]
    prompt_words: frozenset[str]

    def among(self, lexicon: frozenset[str]) -> int:
        """How many of the words are in `lexicon`."""
        return sum(n for word, n in self.counts.items() if word in lexicon)

    def share(self, count: float) -> float:
        """`count` per word."""
        return count / max(len(self.words), 1)


def words_of(text: str) -> list[str]:
    """The words in lower case, with straight apostrophes."""
    return _WORD.findall(text.lower().replace("’", "'"))


def prompt_text(prompt: Sequence[dict[str, Any]]) -> str:
    """The text of the last user message, or of the last message if no user spoke."""
    said = [m for m in prompt if m.get("role") == "user"] or list(prompt)
    return _text(said[-1].get("content")) if said else ""


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return " ".join(str(p.get("text", "")) for p in content if isinstance(p, dict))
    return ""


def style(prompt: Sequence[dict[str, Any]], answer: str) -> dict[str, float]:
    """The style features of one answer by name; each finite for any text."""
    words = words_of(answer)
    text = Text(answer, words, Counter(words), frozenset(words_of(prompt_text(prompt))))
    return _size(text) | _layout(text) | _wording(text) | _repetition(text)


def _size(text: Text) -> dict[str, float]:
    count = len(text.words)
    sentences = sum(1 for s in _SENTENCE.findall(text.raw) if s.strip())
    letters = sum(map(len, text.words))
    return {
        "log_words": math.log1p(count),
        "words": min(count, 400) / 40,
        "log_characters": math.log1p(len(text.raw)),
        "log_sentences": math.log1p(sentences),
        "log_sentence_words": math.log1p(count / max(sentences, 1)),
        "word_length": text.share(letters),
        "long_words": text.share(sum(len(word) >= 8 for word in text.words)),
        "short_words": text.share(sum(len(word) <= 3 for word in text.words)),
        "too_short": float(count < 3),
    }


def _layout(text: Text) -> dict[str, float]:
    raw, length = text.raw, max(len(text.raw), 1)
    stripped = raw.strip()
    capitals = sum(1 for w in _WORD.findall(raw) if len(w) > 1 and w.isupper())
    return {
        "exclamations": math.log1p(raw.count("!")),
        "questions": math.log1p(raw.count("?")),
        "ends_with_question": float(stripped.endswith("?")),
        "unfinished": float(not stripped.endswith(_CLOSED)),
        "starts_small": float(stripped[:1].islower()),
        "list_items": math.log1p(len(_LIST_MARKER.findall(raw))),
        "lines": math.log1p(stripped.count("\n")),
        "formatting": math.log1p(len(_FORMATTING.findall(raw))),
        "digits": math.log1p(sum(map(str.isdigit, raw))),
        "upper_case": sum(map(str.isupper, raw)) / length,
        "capitals": math.log1p(capitals),
        "commas": text.share(raw.count(",")),
        "brackets": math.log1p(raw.count("(") + raw.count("[")),
        "quotes": math.log1p(raw.count('"') + raw.count("“")),
        "emoji": math.log1p(len(_EMOJI.findall(raw))),
        "not_ascii": len(_NOT_LATIN.findall(raw)) / length,
    }


def _wording(text: Text) -> dict[str, float]:
    lower = text.raw.lower()
    you, good, bad = text.among(SECOND_PERSON), text.among(POSITIVE), text.among(NEGATIVE)
    first = text.among(FIRST_PERSON)
    return {
        "first_person": text.share(first),
        "log_first_person": math.log1p(first),
        "second_person": text.share(you),
        "log_second_person": math.log1p(you),
        "positive": text.share(good),
        "log_positive": math.log1p(good),
        "log_negative": math.log1p(bad),
        "log_polite": math.log1p(text.among(POLITE)),
        "log_hedges": math.log1p(text.among(HEDGES)),
        "log_reasons": math.log1p(text.among(REASONS)),
        "refusals": math.log1p(sum(lower.count(phrase) for phrase in REFUSALS)),
    }


def _repetition(text: Text) -> dict[str, float]:
    pairs = list(pairwise(text.words))
    distinct = len(text.counts)
    shared = sum(1 for word in text.counts if word in text.prompt_words)
    return {
        "distinct_words": text.share(distinct) if text.words else 1.0,
        "distinct_pairs": len(set(pairs)) / len(pairs) if pairs else 1.0,
        "log_distinct": math.log1p(distinct),
        "most_repeated": text.share(max(text.counts.values(), default=0)),
        "from_prompt": shared / max(distinct, 1),
        "of_prompt": shared / max(len(text.prompt_words), 1),
    }


STYLE_NAMES = tuple(style((), ""))


def style_vector(prompt: Sequence[dict[str, Any]], answer: str) -> Array:
    """The style features in the order of `STYLE_NAMES`: (style,)."""
    return np.fromiter(style(prompt, answer).values(), np.float64, len(STYLE_NAMES))


def hashed_words(answer: str) -> Array:
    """Which words and pairs of words occur, hashed with a sign (Weinberger et al. 2009):
    (BUCKETS,).

    CRC-32 of UTF-8, since Python's own `hash` differs between processes.
    """
    words = words_of(answer)
    found = set(words) | {f"{a} {b}" for a, b in pairwise(words)}
    vector = np.zeros(BUCKETS)
    for term in sorted(found):  # a fixed order: floating-point sums stay the same bit for bit
        code = zlib.crc32(term.encode("utf-8", "surrogatepass"))
        vector[code % BUCKETS] += 1.0 if code & 0x8000_0000 else -1.0
    return vector
