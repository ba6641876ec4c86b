"""Writes docs/settings.md from the settings classes: names, defaults, and their docstrings."""

from __future__ import annotations

import ast
import inspect
import textwrap
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from learnback.core.settings import CommonSettings, Settings
from learnback.feedback.settings import FeedbackSettings
from learnback.inference.settings import InferenceSettings
from learnback.operator.settings import OperatorSettings
from learnback.registry.settings import RetentionSettings
from learnback.release.settings import ReleaseSettings
from learnback.retraining.settings import FilterSettings, MethodSettings, RetrainingSettings
from learnback.reward.settings import RewardSettings

PAGE = Path(__file__).parent / "settings.md"
CLASSES: tuple[type[Settings], ...] = (
    CommonSettings,
    InferenceSettings,
    FeedbackSettings,
    RewardSettings,
    RetrainingSettings,
    MethodSettings,
    FilterSettings,
    ReleaseSettings,
    OperatorSettings,
    RetentionSettings,
)
HEAD = """\
# Settings

<!-- Written by docs/write_settings.py; a test compares. -->

Each setting is an environment variable. `LEARNBACK_CONFIG=learnback.toml` names a file that holds the same: one table a
process (`[common]`, `[inference]`, ...), names in lower case without the prefix. The environment wins over the file.
Durations are ISO 8601 (`PT30S`) or seconds.
"""


def page() -> str:
    """The whole page."""
    return HEAD + "".join(section(cls) for cls in CLASSES)


def section(cls: type[Settings]) -> str:
    """One class as a table."""
    prefix = cls.model_config.get("env_prefix", "")
    about = docstrings(cls)
    rows = [
        f"| `{prefix}{name.upper()}` | `{shown(field.get_default(call_default_factory=True))}` "
        f"| {about.get(name, '')} |"
        for name, field in cls.model_fields.items()
    ]
    return "\n".join(
        [f"\n## {cls.table}\n", "| variable | default | |", "|---|---|---|", *rows, ""]
    )


def docstrings(cls: type[Settings]) -> dict[str, str]:
    """The string literal below each field."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field, text in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            found[ast.unparse(field.target)] = " ".join(ast.literal_eval(text.value).split())
    return found


def shown(value: Any) -> str:
    """A default as one would write it."""
    if isinstance(value, timedelta):
        return f"{value.total_seconds():g} s"
    if isinstance(value, SecretStr):
        return ""
    if hasattr(value, "model_dump"):
        return "see below" if not value.model_dump() else "{...}"
    return "" if value in (None, "", (), []) else str(value)


if __name__ == "__main__":
    PAGE.write_text(page())
