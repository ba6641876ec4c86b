"""Which language a text is in: py3langid.

Its answer depends on nothing but the text. See docs/decisions/0024-languages-by-py3langid.md.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache

MIN_LETTERS = 20
"""Below this many letters no guess is worth anything: such a text passes."""
READ = 2_000
"""Characters that are looked at: more change no answer and cost time."""


def is_one_of(text: str, wanted: Collection[str]) -> bool:
    """Whether a text is, as far as one can tell, in one of the languages (ISO 639-1)."""
    return sum(c.isalpha() for c in text[:READ]) < MIN_LETTERS or _language(text[:READ]) in wanted


@lru_cache(maxsize=65_536)
def _language(text: str) -> str:
    import py3langid

    code: str = py3langid.classify(text)[0]
    return code
