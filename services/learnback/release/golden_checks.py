"""Whether an answer to a golden item is right, and what a candidate lost or gained by that."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from jsonschema import Draft202012Validator

from learnback.release.engine import Answer, Sampling
from learnback.release.golden import GoldenCheck, GoldenItem, GoldenSet
from learnback.release.measured import GoldenResult
from learnback.release.questions import Question, Side
from learnback.release.sandbox import CheckFailed, call, search

Rate = Callable[[str, Sequence[dict[str, Any]], str], Awaitable[float | None]]
"""(rubric, messages, answer) -> a judge's rating in [0, 1]; None if it can't say."""
GOOD = 0.5
"""The rating that an answer must reach."""
_FENCE = re.compile(r"^\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*$", re.DOTALL)


def questions(golden: GoldenSet, repeats: int) -> list[Question]:
    """Each item as often as the policy says, at temperature 0."""
    return [
        Question(
            key_of(item, number),
            item.conversation,
            Sampling(0.0, item.max_tokens),
            {"tools": item.tools} if item.tools else {},
        )
        for item in golden.items
        for number in range(repeats)
    ]


def key_of(item: GoldenItem, number: int) -> str:
    """Names one asking of an item."""
    return f"golden/{item.name}/{number}"


async def judge_golden(
    golden: GoldenSet, repeats: int, sides: tuple[Side, Side], rate: Rate | None
) -> GoldenResult:
    """Check all answers of both sides."""
    passed: list[dict[str, list[bool]]] = [{}, {}]
    unmeasured: dict[str, str] = {}
    for item in golden.items:
        for side, found in zip(sides, passed, strict=True):
            answers = [side.answers.get(key_of(item, n)) for n in range(repeats)]
            try:
                found[item.name] = await _right(golden, item, answers, rate)
            except CheckFailed as error:
                unmeasured[item.name] = f"{item.name}: {error}"
        answered = any(
            answer is not None and answer.text is not None
            for answer in (sides[1].answers.get(key_of(item, n)) for n in range(repeats))
        )
        if not answered:
            unmeasured[item.name] = f"{item.name}: stable does not answer"
    return _result(repeats, passed[0], passed[1], unmeasured)


def _result(
    repeats: int,
    ours: Mapping[str, list[bool]],
    theirs: Mapping[str, list[bool]],
    unmeasured: Mapping[str, str],
) -> GoldenResult:
    measured = [name for name in theirs if name in ours and name not in unmeasured]
    always = [name for name in measured if all(theirs[name])]
    never = [name for name in measured if not any(theirs[name])]
    return GoldenResult(
        items=len(theirs.keys() | ours.keys() | unmeasured.keys()),
        repeats=repeats,
        stable_passed=sum(_mostly(theirs[name]) for name in measured),
        candidate_passed=sum(_mostly(ours[name]) for name in measured),
        regressions=[name for name in always if not _mostly(ours[name])],
        gains=[name for name in never if _mostly(ours[name])],
        flaky=[name for name in measured if name not in always and name not in never],
        unmeasured=list(unmeasured.values()),
    )


def _mostly(passed: Sequence[bool]) -> bool:
    return 2 * sum(passed) > len(passed)


async def _right(
    golden: GoldenSet, item: GoldenItem, answers: Sequence[Answer | None], rate: Rate | None
) -> list[bool]:
    """By asking; what was not answered is wrong. Raises CheckFailed if the check can't be done."""
    given = [answer for answer in answers if answer is not None and answer.text is not None]
    if item.check.judge is not None:
        right = [await _rated(item, answer, rate) for answer in given]
    elif item.check.python is not None:
        right = await call(golden.folder, item.check.python, item.model_dump(), given)
    elif item.check.regex is not None:
        right = await search(item.check.regex, given)
    else:
        right = [is_right(item.check, answer) for answer in given]
    return right + [False] * (len(answers) - len(given))


async def _rated(item: GoldenItem, answer: Answer, rate: Rate | None) -> bool:
    if rate is None:
        raise CheckFailed("the policy names no judge")
    rating = await rate(item.check.judge or "", item.conversation, answer.text or "")
    if rating is None:
        raise CheckFailed("the judge did not say")
    return rating >= GOOD


def is_right(check: GoldenCheck, answer: Answer) -> bool:
    """The checks that need nothing but the answer."""
    text = answer.text or ""
    if check.exact is not None:
        return text.strip() == check.exact.strip()
    if check.json_schema is not None:
        return is_valid_json(text, check.json_schema)
    wanted = check.tool_call
    if wanted is None or not answer.calls:
        return False
    first = answer.calls[0]
    return first.name == wanted.name and is_valid_json(first.arguments, wanted.arguments)


def is_valid_json(text: str, schema: Mapping[str, Any]) -> bool:
    """Whether a text is JSON, perhaps fenced, and valid by a JSON schema."""
    fenced = _FENCE.match(text)
    try:
        value = json.loads(fenced.group(1) if fenced else text)
    except (ValueError, RecursionError):
        return False
    return bool(Draft202012Validator(dict(schema)).is_valid(value))
