"""Writes `learnback/values.schema.json` and the table in `learnback/README.md` from `values.yaml`.

The comment above a value is its description. The type is that of its default; brackets at the
comment's end say more: `[enum a b]`, `[min 1]`, `[max 9]`, `[pattern ^x$]`, `[integer|null]`,
`[integer|string]`, `[list string]`, `[list integer]`, `[list object]`, `[map string]`,
`[map scalar]`, `[alerts]` (a list of names of alerts), `[alerts a b]` (one of these for each),
`[free]` (an object that Kubernetes describes). Every other object is closed.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parent / "learnback"
BEGIN, END = "<!-- values: written by charts/write_schema.py -->", "<!-- values end -->"
HINT = re.compile(r"\s*\[([a-z][^\[\]]*(?:\[[^\]]*\][^\[\]]*)*)\]$")
TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array"}
SCALAR = ["string", "number", "boolean"]
BOUNDS = {"min": "minimum", "max": "maximum"}


@dataclass
class Value:
    """A value of the chart: its path, default, description, and what the brackets say."""

    path: tuple[str, ...]
    default: Any
    description: str
    hints: list[str]
    children: list[Value] = field(default_factory=list)


def read(text: str) -> list[Value]:
    """The values in the order of the file."""
    return list(_values(yaml.compose(text), text.splitlines(), ()))


def _values(node: Any, lines: list[str], path: tuple[str, ...]) -> Iterator[Value]:
    for key, content in node.value:
        description, hints = _comment(lines, key.start_mark.line)
        default = yaml.SafeLoader("").construct_object(content, deep=True)
        value = Value((*path, key.value), default, description, hints)
        if isinstance(default, dict) and default and not value.hints:
            value.children = list(_values(content, lines, value.path))
        yield value


def _comment(lines: list[str], line: int) -> tuple[str, list[str]]:
    """The comment that ends above a line, without its brackets, and what they say."""
    found: list[str] = []
    while line > 0 and lines[line - 1].lstrip().startswith("#"):
        line -= 1
        found.insert(0, lines[line].lstrip().lstrip("#").strip())
    text, hints = " ".join(found), []
    while hint := HINT.search(f" {text}"):
        hints.insert(0, hint.group(1))
        text = text[: max(0, len(text) - len(hint.group(0).lstrip()))].rstrip()
    return text, hints


def schema(values: list[Value]) -> dict[str, Any]:
    """The closed JSON schema of the whole file."""
    root = _object(values)
    root["properties"]["global"] = {"type": "object"}  # Helm adds it to every subchart
    return {"$schema": "http://json-schema.org/draft-07/schema#", **root}


def _object(values: list[Value]) -> dict[str, Any]:
    properties = {value.path[-1]: _property(value) for value in values}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _property(value: Value) -> dict[str, Any]:
    described = {"description": value.description} if value.description else {}
    if value.children:
        return {**described, **_object(value.children)}
    found: dict[str, Any] = dict(described)
    if isinstance(value.default, dict):
        found["type"] = "object"
    elif value.default is not None:
        found["type"] = TYPES[type(value.default)]
    for hint in value.hints:
        found |= _hinted(value, *hint.split(" ", 1))
    return found


def _hinted(value: Value, word: str, rest: str = "") -> dict[str, Any]:
    if word == "enum":
        return {"enum": rest.split()}
    if word in BOUNDS:
        return {BOUNDS[word]: float(rest) if "." in rest else int(rest)}
    if word == "pattern":
        return {"pattern": rest}
    if word == "list":
        return {"items": {"type": rest}}
    if word == "map":
        return {"additionalProperties": {"type": SCALAR if rest == "scalar" else rest}}
    if word == "alerts":
        return _by_alert(rest.split())
    if word == "free":
        return {}
    if "|" in word:
        return {"type": word.split("|")}
    raise SystemExit(f"{'.'.join(value.path)}: unknown hint [{word}]")


def _by_alert(choices: list[str]) -> dict[str, Any]:
    """A list of names of alerts, or an object from names to one of `choices`."""
    names = sorted(file.stem for file in (CHART / "alerts").glob("*.yaml"))
    if not choices:
        return {"items": {"enum": names}, "uniqueItems": True}
    properties = {name: {"enum": choices} for name in names}
    return {"additionalProperties": False, "properties": properties}


def leaves(values: list[Value]) -> Iterator[Value]:
    """All values that have no values below them."""
    for value in values:
        yield from leaves(value.children) if value.children else [value]


def table(values: list[Value]) -> str:
    """The values as Markdown: a table a top-level block."""
    blocks = [value for value in values if value.children]
    plain = [value for value in values if not value.children]
    parts = [_rows(plain)]
    parts += [f"### {b.path[0]}\n\n{b.description}\n\n{_rows(list(leaves([b])))}" for b in blocks]
    return "\n\n".join(part.replace("\n\n\n\n", "\n\n") for part in parts)


def _rows(values: list[Value]) -> str:
    rows = ["| value | default | |", "|---|---|---|"]
    for value in values:
        default = json.dumps(value.default) if value.default != "" else '""'
        hints = "; ".join(h for h in value.hints if h.split(" ")[0] in {"enum", *BOUNDS})
        said = " ".join(filter(None, [value.description, f"({hints})" if hints else ""]))
        cells = [f"`{'.'.join(value.path)}`", f"`{default}`", said]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def render(chart: Path = CHART) -> dict[Path, str]:
    """What both files should hold."""
    values = read((chart / "values.yaml").read_text())
    readme = (chart / "README.md").read_text()
    head, _, rest = readme.partition(BEGIN)
    tail = rest.partition(END)[2]
    return {
        chart / "values.schema.json": json.dumps(schema(values), indent=2) + "\n",
        chart / "README.md": f"{head}{BEGIN}\n\n{table(values)}\n\n{END}{tail}",
    }


def main() -> None:
    """Write both files; with --check fail if they are not up to date."""
    stale = {path: text for path, text in render().items() if _read(path) != text}
    if "--check" in sys.argv and stale:
        raise SystemExit(f"run charts/write_schema.py: {', '.join(p.name for p in stale)}")
    for path, text in stale.items():
        path.write_text(text)


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


if __name__ == "__main__":
    main()
