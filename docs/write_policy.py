"""Writes docs/release-policy.md and docs/release-policy.schema.json from the policy's classes."""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from learnback.release.golden import GoldenCheck, GoldenItem
from learnback.release.policy import (
    CanaryPolicy,
    GatePolicy,
    GoldenPolicy,
    JudgePolicy,
    Measure,
    Metric,
    ReleasePolicy,
    Step,
)

DOCS = Path(__file__).parent
PAGE, SCHEMA = DOCS / "release-policy.md", DOCS / "release-policy.schema.json"
EXAMPLE = """\
gate:
  min_win_rate: 0.5
golden:
  file: golden.yaml
judge:
  url: https://judge.example.com
  model: a-large-model
canary:
  steps:
    - {mirror: 5%, at_least: PT30M, min_people: 100}
    - {traffic: 1%, at_least: PT30M, min_people: 20}
    - {traffic: 10%, at_least: PT1H, min_people: 100}
    - {traffic: 50%, at_least: PT2H, min_people: 200}
    - {traffic: 100%, approval: manual}
  metrics:
    - {measure: feedback, aim: improve}
    - {measure: reward, margin: 5%}
    - {measure: errors, margin: 2%}
    - {measure: abandoned, margin: 3%}
    - {measure: latency, margin: 5%}
  alpha: 0.05
  window: PT30M
  deadline: P7D
  on_deadline: roll_back
"""
HEAD = f"""\
# The release policy

<!-- Written by docs/write_policy.py; a test compares. -->

`LEARNBACK_RELEASE_POLICY=release.yaml` names the file. [The schema](release-policy.schema.json) closes it: an unknown field
keeps the process from starting. Without a file a version that passes the gate answers everybody at once, which suits a
laptop, and guards that a laptop can't measure are waived ([which](evaluation.md#guards)). A canary under way goes on by the policy
that it began with.

```yaml
{EXAMPLE}```

[How a candidate is evaluated](evaluation.md) and [how a canary decides](canary.md) say what the numbers mean.
"""


def page() -> str:
    """The whole page."""
    parts = [
        HEAD,
        section("gate", GatePolicy),
        section("golden", GoldenPolicy),
        section("golden.items[]", GoldenItem),
        section("golden.items[].check", GoldenCheck),
        section("judge", JudgePolicy),
        section("canary", CanaryPolicy),
        section("canary.steps[]", Step),
        section("canary.metrics[]", Metric),
        "\n## Measures\n\n| measure | per person, in [0, 1], more is better |\n|---|---|\n",
        "".join(f"| `{m}` | {_about_measure(m)} |\n" for m in Measure),
    ]
    return "".join(parts)


def section(title: str, cls: type[BaseModel]) -> str:
    """One part as a table."""
    rows = [
        f"| `{name}` | {shown(field.get_default(call_default_factory=True))} "
        f"| {' '.join((field.description or '').split())} |"
        for name, field in cls.model_fields.items()
    ]
    return "\n".join([f"\n## `{title}`\n", "| field | default | |", "|---|---|---|", *rows, ""])


def shown(value: Any) -> str:
    """A default as one would write it."""
    if isinstance(value, timedelta):
        return f"`{ReleasePolicyJson(value=value).model_dump(mode='json')['value']}`"
    if isinstance(value, Enum):
        return f"`{value.value}`"
    if value == ():
        return "`[]`"
    if isinstance(value, tuple):
        return "see above" if len(value) > 1 else "one step of 100%"
    return "" if str(value) == "PydanticUndefined" else f"`{value}`"


class ReleasePolicyJson(BaseModel):
    """Writes durations as ISO 8601."""

    value: timedelta


def _about_measure(measure: Measure) -> str:
    tree = ast.parse(textwrap.dedent(inspect.getsource(Measure))).body[0]
    assert isinstance(tree, ast.ClassDef)
    for name, text in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(name, ast.Assign) and isinstance(text, ast.Expr):
            (target,) = name.targets
            if ast.unparse(target) == measure.name:
                return " ".join(str(ast.literal_eval(text.value)).split())
    return ""


def schema() -> str:
    """The JSON schema."""
    return json.dumps(ReleasePolicy.model_json_schema(), indent=2) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
    SCHEMA.write_text(schema())
