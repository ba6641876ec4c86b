"""The golden set names its mistakes by line and field, and its checks say right or wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from learnback.core.errors import Unprocessable
from learnback.release import sandbox
from learnback.release.engine import Answer, ToolCall
from learnback.release.golden import GoldenCheck, GoldenItem, GoldenSet, read_golden
from learnback.release.golden_checks import is_right, judge_golden, key_of, questions
from learnback.release.policy_file import read_policy
from learnback.release.questions import Side

GOOD = """\
- name: capital
  prompt: What is the capital of France?
  check: {regex: '\\bParis\\b'}
- name: as json
  messages:
    - {role: system, content: Answer in JSON.}
    - {role: user, content: 'Name a city.'}
  max_tokens: 32
  check:
    json_schema: {type: object, required: [city]}
- name: polite
  prompt: Say hello.
  check: {python: 'checks.py:is_polite'}
"""
CHECKS = """\
import os

def is_polite(answer, item):
    assert item["name"] == "polite"
    return "please" in answer or "hello" in answer.lower()

def reads_keys(answer, item):
    return "LEARNBACK_SECRET" in os.environ

def hangs(answer, item):
    while True:
        pass

def eats(answer, item):
    return len(bytearray(4 << 30)) > 0

def raises(answer, item):
    raise ValueError("not today")

def prints(answer, item):
    print("a word")
    return True
"""


def written(folder: Path, text: str, name: str = "golden.yaml") -> Path:
    (folder / "checks.py").write_text(CHECKS)
    path = folder / name
    path.write_text(text)
    return path


def test_a_golden_set_is_read(tmp_path: Path) -> None:
    found = read_golden(written(tmp_path, GOOD))
    assert [item.name for item in found.items] == ["capital", "as json", "polite"]
    assert found.items[0].conversation == [
        {"role": "user", "content": "What is the capital of France?"}
    ]
    assert (found.items[1].max_tokens, found.needs_judge) == (32, False)


def test_json_lines_are_read_too(tmp_path: Path) -> None:
    line = '{"name": "n", "prompt": "p", "check": {"exact": "x"}}'
    assert len(read_golden(written(tmp_path, f"{line}\n\n", "g.jsonl")).items) == 1
    with pytest.raises(Unprocessable, match=r"line 3, check\.exact"):
        read_golden(written(tmp_path, line + "\n\n" + line.replace('"x"', "3"), "g.jsonl"))
    with pytest.raises(Unprocessable, match="line 2: "):
        read_golden(written(tmp_path, line + "\n{", "g.jsonl"))
    odd = line.replace('"x"', '"x\u2028y\u0085z"')  # JSON allows them within a text, as they are
    (item,) = read_golden(written(tmp_path, f"{odd}\r\n", "g.jsonl")).items
    assert item.check.exact == "x\u2028y\u0085z"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.replace("prompt: Say", "prmpt: Say"), "line 12, prmpt: Extra inputs"),
        (lambda t: t.replace("max_tokens: 32", "max_tokens: 0"), "line 8, max_tokens"),
        (lambda t: t.replace(r"\bParis\b", "(Paris"), r"line 3, check\.regex"),
        (lambda t: t.replace("{type: object", "{type: thing"), r"line 10, check\.json_schema"),
        (lambda t: t.replace("name: polite", "name: capital"), "line 11, name: 'capital' stands"),
        (lambda t: t.replace("is_polite", "is_rude"), r"line 13, check\.python: checks\.py has no"),
        (lambda t: t.replace("checks.py", "../checks.py"), "not in the golden set's folder"),
        (lambda t: t.replace("checks.py", "gone.py"), r"gone\.py can't be read"),
        (lambda t: t.replace("{regex:", "{exact: a, regex:"), "line 3, check: .*exactly one"),
        (lambda t: t.replace("  prompt: Say hello.\n", ""), "line 11.*either `prompt`"),
        (lambda t: "name: capital", "line 1: must be a list"),
        (lambda t: "- [", "no YAML"),
        (lambda t: "[]", "is empty"),
    ],
)
def test_mistakes_are_named_with_line_and_field(
    tmp_path: Path, change: Callable[[str], str], said: str
) -> None:
    with pytest.raises(Unprocessable, match=said):
        read_golden(written(tmp_path, change(GOOD)))


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [
        ({"exact": "Paris"}, " Paris\n", "paris"),
        ({"json_schema": {"type": "object"}}, "{}", "[]"),
        ({"json_schema": {"type": "object"}}, '```json\n{"a": 1}\n```', "{"),
        ({"json_schema": {"type": "integer"}}, "3", "[" * 5000),
    ],
)
def test_checks_of_texts(check: dict[str, Any], right: str, wrong: str) -> None:
    assert is_right(GoldenCheck(**check), Answer(right))
    assert not is_right(GoldenCheck(**check), Answer(wrong))


def test_tool_calls_are_checked_by_name_and_arguments() -> None:
    arguments = {"type": "object", "required": ["city"]}
    check = GoldenCheck(tool_call={"name": "weather", "arguments": arguments})
    assert is_right(check, Answer("", calls=(ToolCall("weather", '{"city": "Bonn"}'),)))
    for calls in ((), (ToolCall("time", "{}"),), (ToolCall("weather", '{"city"'),)):
        assert not is_right(check, Answer("weather", calls=calls))


def one_item(folder: Path, check: dict[str, Any]) -> GoldenSet:
    (folder / "checks.py").write_text(CHECKS)
    item = GoldenItem(name="polite", prompt="Say hello.", check=GoldenCheck(**check))
    return GoldenSet(items=(item,), folder=folder)


def a_side(golden: GoldenSet, *answers: str | None) -> Side:
    """The answers to one asking after another."""
    side = Side("v", "v")
    for n, text in enumerate(answers):
        side.answers[key_of(golden.items[0], n)] = Answer(text, None if text else "500")
    return side


@pytest.mark.parametrize(
    ("ours", "theirs", "regressions", "gains", "flaky"),
    [
        (("a", "a", "a"), ("b", "b", "b"), 0, 1, 0),
        (("b", "b", "a"), ("a", "a", "a"), 1, 0, 0),
        (("a", "a", "b"), ("a", "a", "a"), 0, 0, 0),
        (("b", "b", "b"), ("a", "a", "b"), 0, 0, 1),
        ((None, None, None), ("a", "a", "a"), 1, 0, 0),
    ],
)
async def test_what_stable_always_passes_must_not_be_lost(
    tmp_path: Path, ours: Any, theirs: Any, regressions: int, gains: int, flaky: int
) -> None:
    golden = one_item(tmp_path, {"exact": "a"})
    found = await judge_golden(golden, 3, (a_side(golden, *ours), a_side(golden, *theirs)), None)
    assert (len(found.regressions), len(found.gains), len(found.flaky)) == (
        regressions,
        gains,
        flaky,
    )
    assert found.unmeasured == []


async def test_a_regular_expression_matches_anywhere_and_can_not_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden = one_item(tmp_path, {"regex": r"\d{4}"})
    sides = a_side(golden, "in May"), a_side(golden, "in 1889.")
    assert (await judge_golden(golden, 1, sides, None)).regressions == ["polite"]
    monkeypatch.setattr(sandbox, "SECONDS", 1)
    endless = one_item(tmp_path, {"regex": r"^(a+)+$"})
    sides = a_side(endless, "a" * 60 + "!"), a_side(endless, "aaa")
    (said,) = (await judge_golden(endless, 1, sides, None)).unmeasured
    assert said.startswith("polite: the regular expression")


async def test_an_item_that_stable_does_not_answer_is_not_measured(tmp_path: Path) -> None:
    golden = one_item(tmp_path, {"exact": "a"})
    sides = a_side(golden, "a", "a", "a"), a_side(golden, None, None, None)
    found = await judge_golden(golden, 3, sides, None)
    assert found.unmeasured == ["polite: stable does not answer"]


async def test_a_judge_rates_by_the_items_rubric(tmp_path: Path) -> None:
    golden = one_item(tmp_path, {"judge": "Is it polite?"})

    async def rate(rubric: str, messages: Any, answer: str) -> float | None:
        assert rubric == "Is it polite?"
        return {"hello": 0.9, "what": 0.1}.get(answer)

    sides = a_side(golden, "what"), a_side(golden, "hello")
    assert (await judge_golden(golden, 1, sides, rate)).regressions == ["polite"]
    silent = a_side(golden, "?"), a_side(golden, "hello")
    assert (await judge_golden(golden, 1, silent, rate)).unmeasured == [
        "polite: the judge did not say"
    ]
    assert (await judge_golden(golden, 1, sides, None)).unmeasured == [
        "polite: the policy names no judge"
    ]


async def test_a_function_judges_in_a_process_of_its_own(tmp_path: Path) -> None:
    golden = one_item(tmp_path, {"python": "checks.py:is_polite"})
    sides = a_side(golden, "go away", "go", None), a_side(golden, "Hello!", "please", "hello")
    found = await judge_golden(golden, 3, sides, None)
    assert (found.regressions, found.stable_passed, found.unmeasured) == (["polite"], 1, [])


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("hangs", "took more than 1 s|was killed|failed"),
        ("eats", "MemoryError"),
        ("raises", "ValueError: not today"),
        ("gone", "no attribute 'gone'"),
    ],
)
async def test_a_function_that_fails_says_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, said: str
) -> None:
    monkeypatch.setattr(sandbox, "SECONDS", 1)
    golden = one_item(tmp_path, {"exact": "a"})
    with pytest.raises(sandbox.CheckFailed, match=said):
        await sandbox.call(golden.folder, f"checks.py:{function}", {}, [Answer("a")])


@pytest.mark.parametrize(("function", "right"), [("reads_keys", False), ("prints", True)])
async def test_a_function_sees_no_environment_and_may_print(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, right: bool
) -> None:
    monkeypatch.setenv("LEARNBACK_SECRET", "x")
    golden = one_item(tmp_path, {"exact": "a"})
    said = await sandbox.call(golden.folder, f"checks.py:{function}", {}, [Answer("a")])
    assert said == [right]


def test_items_are_asked_cold_and_as_often_as_the_policy_says(tmp_path: Path) -> None:
    golden = read_golden(written(tmp_path, GOOD))
    asked = questions(golden, 3)
    assert len({q.key for q in asked}) == 9
    assert {q.sampling.temperature for q in asked} == {0.0}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("golden: {repeats: 2}", "either `file` or `items`"),
        ("golden: {items: [{name: a, prompt: b, check: {regex: '('}}]}", r"items\.0\.check\.regex"),
        ("golden: {items: [{name: a, prompt: b, check: {python: 'c.py:d'}}]}", "need a golden set"),
        (
            "golden: {items: [{name: a, prompt: b, check: {exact: c}},"
            " {name: a, prompt: b, check: {exact: c}}]}",
            "a: stands there twice",
        ),
    ],
)
def test_items_in_the_policy_are_checked_as_those_in_a_file(
    tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "release.yaml").write_text(text)
    with pytest.raises(Unprocessable, match=said):
        read_policy(tmp_path / "release.yaml")


def test_an_item_whose_prompt_changed_is_asked_again(tmp_path: Path) -> None:
    before, after = (
        questions(read_golden(written(tmp_path, text)), 1)[0]
        for text in (GOOD, GOOD.replace("capital of France", "capital of Spain"))
    )
    assert before.key == after.key
    assert before.cache_key != after.cache_key


def test_paths_are_relative_to_the_policy_file(tmp_path: Path) -> None:
    policy = tmp_path / "release.yaml"
    policy.write_text("golden: {file: golden.yaml}\njudge: {url: 'http://j', model: m, rubric: r}")
    found = read_policy(policy)
    assert found.golden is not None
    assert found.judge is not None
    assert (found.golden.file, found.judge.rubric) == (tmp_path / "golden.yaml", tmp_path / "r")
