"""The operator's golden set: prompts whose answers must stay right, each with a check.

YAML (a list) or JSON lines. It is read and checked when the release process starts; a mistake is
named with its line and field.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from pydantic import AfterValidator, Field, ValidationError, model_validator

from learnback.core.errors import Unprocessable
from learnback.release.closed import Closed


def _regex(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from error
    return pattern


def _schema(schema: dict[str, Any]) -> dict[str, Any]:
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise ValueError(f"is no JSON schema: {error.message}") from error
    return schema


Schema = Annotated[dict[str, Any], AfterValidator(_schema)]


class ToolCheck(Closed):
    """A call of a tool that the answer must make."""

    name: str
    """The tool's."""
    arguments: Schema = {}
    """JSON schema of its arguments."""


class GoldenCheck(Closed):
    """What makes an answer right: exactly one of these."""

    exact: str | None = None
    """The answer itself; white space at both ends does not count."""
    regex: Annotated[str, AfterValidator(_regex)] | None = None
    """Python's syntax; somewhere in the answer."""
    json_schema: Schema | None = None
    """The answer is JSON (a fence of three backticks is taken off) and valid."""
    tool_call: ToolCheck | None = None
    """The first tool call of the answer."""
    judge: str | None = None
    """A rubric for the policy's judge model; its rating must reach one half."""
    python: str | None = Field(default=None, pattern=r"^[^:]+\.py:[A-Za-z_]\w*$")
    """`module.py:function`, beside the golden set: `function(answer, item) -> bool`, run in a
    process of its own with limits on time and memory, without this process's environment."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        named = [name for name, value in self if value is not None]
        if len(named) != 1:
            raise ValueError(f"name exactly one check, not {', '.join(named) or 'none'}")
        return self


class GoldenItem(Closed):
    """A prompt and what its answer must be."""

    name: str = Field(min_length=1, max_length=100)
    """Once in the set; what reports call it."""
    prompt: str | None = Field(default=None, min_length=1)
    """What the user says; or `messages`."""
    messages: list[dict[str, Any]] | None = Field(default=None, min_length=1)
    """Chat messages, the last one from the user or a tool."""
    tools: list[dict[str, Any]] = []
    """As in a request to the chat API."""
    max_tokens: int = Field(default=256, ge=1)
    """Tokens of the answer."""
    check: GoldenCheck
    """What makes the answer right."""

    @model_validator(mode="after")
    def _one_prompt(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either `prompt` or `messages`")
        return self

    @property
    def conversation(self) -> list[dict[str, Any]]:
        """The prompt as messages."""
        return self.messages or [{"role": "user", "content": self.prompt}]


class GoldenSet(Closed):
    """All items, and the folder in which checks in Python lie."""

    items: tuple[GoldenItem, ...]
    folder: Path

    @property
    def needs_judge(self) -> bool:
        """Whether a judge model has to be there."""
        return any(item.check.judge is not None for item in self.items)


def read_golden(path: Path) -> GoldenSet:
    """Read a golden set. Unprocessable names the line and the field of the first mistakes."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Unprocessable(f"The golden set {path} can't be read: {error}") from error
    entries = _json_lines(path, text) if path.suffix == ".jsonl" else _yaml_entries(path, text)
    items: list[GoldenItem] = []
    for value, lines in entries:
        try:
            items.append(GoldenItem.model_validate(value))
        except ValidationError as error:
            raise Unprocessable(_mistakes(path, error, lines)) from error
        _check_item(path, items, lines)
    if not items:
        raise Unprocessable(f"The golden set {path} is empty.")
    return GoldenSet(items=tuple(items), folder=path.parent)


class _Lines:
    """Finds the line of a field; for JSON lines every field is on the same."""

    def __init__(self, node: yaml.Node | None, line: int) -> None:
        self.node, self.line = node, line

    def of(self, place: Sequence[str | int]) -> int:
        """The line of the innermost part of `place` that is there, from 1."""
        node, line = self.node, self.line
        for part in place:
            if isinstance(node, yaml.MappingNode):
                found = [pair for pair in node.value if pair[0].value == part]
                if not found:
                    break
                line, node = found[0][0].start_mark.line + 1, found[0][1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
                node = node.value[part]
                line = node.start_mark.line + 1
            else:
                break
        return line


_Entry = tuple[Any, _Lines]


def _yaml_entries(path: Path, text: str) -> list[_Entry]:
    try:
        values, node = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise Unprocessable(f"The golden set {path} is no YAML: {error}") from error
    if not isinstance(values, list) or not isinstance(node, yaml.SequenceNode):
        raise Unprocessable(f"The golden set {path}, line 1: must be a list of items.")
    return [
        (value, _Lines(child, child.start_mark.line + 1))
        for value, child in zip(values, node.value, strict=True)
    ]


def _json_lines(path: Path, text: str) -> list[_Entry]:
    entries: list[_Entry] = []
    for number, line in enumerate(text.split("\n"), 1):  # U+2028 within a text ends no line
        if not line.strip():
            continue
        try:
            entries.append((json.loads(line), _Lines(None, number)))
        except ValueError as error:
            raise Unprocessable(f"The golden set {path}, line {number}: {error}") from error
    return entries


def _mistakes(path: Path, error: ValidationError, lines: _Lines) -> str:
    wrong = "; ".join(
        f"line {lines.of(e['loc'])}, {'.'.join(map(str, e['loc'])) or 'the item'}: {e['msg']}"
        for e in error.errors()
    )
    return f"The golden set {path} is wrong: {wrong}"


def _check_item(path: Path, items: Sequence[GoldenItem], lines: _Lines) -> None:
    """What one item alone can't tell: names twice, and functions that are not there."""
    item = items[-1]
    if any(item.name == other.name for other in items[:-1]):
        line = lines.of(["name"])
        raise Unprocessable(
            f"The golden set {path} is wrong: line {line}, name: {item.name!r} stands there twice"
        )
    problem = _function_problem(path.parent, item.check.python)
    if problem:
        line = lines.of(["check", "python"])
        raise Unprocessable(f"The golden set {path} is wrong: line {line}, check.python: {problem}")


def _function_problem(folder: Path, named: str | None) -> str | None:
    if named is None:
        return None
    name, _, function = named.partition(":")
    file = (folder / name).resolve()
    if not file.is_relative_to(folder.resolve()):
        return f"{name} is not in the golden set's folder"
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError) as error:
        return f"{name} can't be read: {error}"
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    return None if function in defined else f"{name} has no function {function}"


Kind = Literal["exact", "regex", "json_schema", "tool_call", "judge", "python"]


def kind_of(check: GoldenCheck) -> Kind:
    """Which of the checks it is."""
    (name,) = (name for name, value in check if value is not None)
    return name  # type: ignore[return-value]  # the model's fields are the literal's words
