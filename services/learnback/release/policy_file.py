"""Reads `release.yaml`, and says what holds without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from learnback.core.errors import Unprocessable
from learnback.release.policy import GatePolicy, ReleasePolicy

LAPTOP = GatePolicy(
    reward_hack=False,
    must_tell=0.4,
    waive=(
        "refusal_increase",
        "hedging_increase",
        "clarifying_increase",
        "flattery_increase",
        "invalid_structured_increase",
    ),
)
"""Without a file: no second judge, few prompts, any language, an engine that may enforce no
formats."""


def read_policy(path: Path | None) -> ReleasePolicy:
    """The policy in a file; the laptop's without one. Unprocessable says what is wrong where."""
    if path is None:
        return ReleasePolicy(gate=LAPTOP)
    try:
        text = path.read_text(encoding="utf-8")
        declared = yaml.load(text, Loader=_EachOnce)  # a SafeLoader
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise Unprocessable(f"The release policy {path} can't be read: {error}") from error
    try:
        policy = ReleasePolicy.model_validate({} if declared is None else declared)
        return _resolved(policy, path.parent)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}" for e in error.errors()
        )
        raise Unprocessable(f"The release policy {path} is wrong: {wrong}") from error


class _EachOnce(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
    """YAML's safe types; a field that stands twice is an error, and not the last one's."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As the base, after a look at the names."""
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.YAMLError(f"`{key.value}` stands there twice{key.start_mark}")
            seen.add(key.value)
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


def _resolved(policy: ReleasePolicy, folder: Path) -> ReleasePolicy:
    """The policy with the paths in it taken from its file's folder."""
    golden, judge = policy.golden, policy.judge
    if golden is not None and golden.file is not None:
        golden = golden.model_copy(update={"file": folder / golden.file})
    if judge is not None and judge.rubric is not None:
        judge = judge.model_copy(update={"rubric": folder / judge.rubric})
    return policy.model_copy(update={"golden": golden, "judge": judge})
