"""What a version of kind `prompt` is made of: a configuration, and an example bank if it has one.

Shared by those who make such versions and by the process that serves them. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

THINK = "Think step by step, then give the answer."
"""Zero-shot chain of thought (Kojima et al. 2022), for a strategy without words of its own."""
MOST_EXAMPLES = 16
"""More in one prompt cost time with each request and rarely help."""
LONGEST_SYSTEM, LONGEST_WORDING = 8_000, 2_000

StrategyName = Literal["zero_shot", "few_shot", "zero_shot_cot", "chain_of_thought"]
SHOWS_EXAMPLES = frozenset(("few_shot", "chain_of_thought"))
THINKS = frozenset(("zero_shot_cot", "chain_of_thought"))


class Example(BaseModel):
    """One turn that shows how to answer, written by whoever made the strategy."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user: str
    assistant: str


class Strategy(BaseModel):
    """What is put around a prompt.

    Written `examples` are shown to everybody. Those of the bank are picked for each request.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    strategy: StrategyName
    system: str = Field("", max_length=LONGEST_SYSTEM)
    """Comes before the caller's own system text."""
    suffix: str = Field("", max_length=LONGEST_WORDING)
    """The wording: comes after the user's last words."""
    examples: tuple[Example, ...] = Field((), max_length=MOST_EXAMPLES)
    bank: str = ""
    """Digest of the example bank's files; empty: there is none."""
    max_examples: int = Field(4, ge=1, le=MOST_EXAMPLES)
    """Most examples in one prompt."""
    max_example_bytes: int = Field(4_000, ge=1, le=1 << 20)
    """Most bytes of examples in one prompt, whatever the context would hold."""
    reward_weight: float = Field(0.3, ge=0, le=1)
    """How much an example's rating counts; the rest is its likeness to the prompt."""

    @model_validator(mode="after")
    def _has_what_its_name_says(self) -> Strategy:
        shows = bool(self.examples or self.bank)
        if self.strategy == "few_shot" and not shows:
            raise ValueError("few_shot needs examples")
        if self.strategy not in SHOWS_EXAMPLES and shows:
            raise ValueError(f"{self.strategy} has no examples; few_shot has")
        if self.strategy == "zero_shot" and not (self.system.strip() or self.suffix.strip()):
            raise ValueError("zero_shot needs a system text: without one it changes nothing")
        return self

    @property
    def instruction(self) -> str:
        """The text after the user's last words."""
        return self.suffix or (THINK if self.strategy in THINKS else "")


def problem_with(config: Mapping[str, Any]) -> str | None:
    """Why a configuration is no strategy; None if it is one."""
    try:
        Strategy.model_validate(dict(config))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        return f"its prompt strategy is invalid: {where}: {first['msg']}"
    return None
