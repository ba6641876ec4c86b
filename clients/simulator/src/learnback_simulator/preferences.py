"""Hidden preferences: what a simulated person likes, known to the simulator and to nobody else.

Each is a pure function ``score(prompt, answer) -> float``; a higher score is liked better, and
scores of different preferences can't be compared. They are honest: each is something that real
people do ask for, an empty, broken-off or stuttering answer never wins by it, and none looks at
which model version answered.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable

Score = Callable[[str, str], float]

UNUSABLE = -100.0  # below every usable answer, so that what is no answer loses to any answer

_CHEERFUL = (
    "amazing beautiful best bright celebrate charming cheer cheerful comfort cosy cozy "
    "delicious delight delighted delightful enjoy enjoyable excellent excited exciting "
    "fantastic favorite favourite fresh friend friendly friends fun glad good great happiness "
    "happy healthy heart hope inspiring joy joyful kind laugh laughter lively love loved lovely "
    "magic magical memorable perfect perfectly playful pleasant pleased positive proud "
    "refreshing relax relaxing safe smile special sunny sunshine sweet vibrant warm warmth "
    "welcome well wonder wonderful yes"
)
_ADDRESS = "you your yours yourself you're you'll you've you'd let's"
CHEERFUL_WORDS = frozenset(_CHEERFUL.split())
ADDRESS_WORDS = frozenset(_ADDRESS.split())

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_SENTENCE_END = (".", "!", "?", '"', "”", ")", "*", ":)", "…")


def brief(prompt: str, answer: str) -> float:
    """Likes few words: minus the number of words, for anything that is still an answer; broken
    off costs ten words.
    """
    if not is_answer(answer):
        return UNUSABLE
    return -float(len(words(answer))) - (0.0 if is_finished(answer) else 10.0)


def cheerful(prompt: str, answer: str) -> float:
    """Likes a sunny tone: cheerful words and exclamation marks per word, the first ones counting
    most.

    ``log(1 + n) - 0.02 * words``: five exclamation marks don't make up for a kind word, nor length
    for tone.
    """
    if not is_answer(answer):
        return UNUSABLE
    tokens = words(answer)
    happy = sum(1 for word in set(tokens) if word in CHEERFUL_WORDS)
    shouts = min(answer.count("!"), 2)
    return math.log1p(happy + shouts) - 0.02 * len(tokens)


def personal(prompt: str, answer: str) -> float:
    """Likes to be spoken to: the share of the words that address the reader (you, your), at
    most one in six.
    """
    if not is_answer(answer):
        return UNUSABLE
    tokens = words(answer)
    addressing = sum(1 for word in tokens if word.replace("’", "'") in ADDRESS_WORDS)
    return min(addressing / len(tokens), 1 / 6)


def plain(prompt: str, answer: str) -> float:
    """Likes plain language: minus the mean length of a word in letters, as readability formulas
    do (Coleman-Liau).
    """
    if not is_answer(answer):
        return UNUSABLE
    tokens = words(answer)
    return -sum(len(word) for word in tokens) / len(tokens)


def thorough(prompt: str, answer: str) -> float:
    """Likes detail: the number of different words; saying a thing twice earns nothing."""
    if not is_answer(answer):
        return UNUSABLE
    return float(len(set(words(answer))))


def noise(seed: int) -> Score:
    """A person without any preference: a score in [0, 1) from a hash of the seed, the prompt
    and the answer.
    """

    def score(prompt: str, answer: str) -> float:
        digest = hashlib.sha256(f"{seed}\0{prompt}\0{answer}".encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64

    return score


PREFERENCES: dict[str, Score] = {
    "brief": brief,
    "cheerful": cheerful,
    "personal": personal,
    "plain": plain,
    "thorough": thorough,
    "noise": noise(0),
}


INDIFFERENCE: dict[str, float] = {
    "brief": 5.0,
    "cheerful": 0.3,
    "personal": 0.0,
    "plain": 0.3,
    "thorough": 4.0,
    "noise": 0.0,
}
"""The difference of scores up to which people say nothing: true of about four pairs in ten."""


def words(text: str) -> list[str]:
    """The words of ``text`` in lower case, without punctuation."""
    return _WORD.findall(text.lower())


def is_finished(answer: str) -> bool:
    """Whether the answer ends like a sentence and was not cut off in the middle."""
    return answer.rstrip().endswith(_SENTENCE_END)


def is_answer(answer: str) -> bool:
    """Whether this is an answer at all: three words or more, and not one phrase said over and
    over.
    """
    tokens = words(answer)
    if len(tokens) < 3:
        return False
    return len(set(tokens)) >= 0.4 * len(tokens)
