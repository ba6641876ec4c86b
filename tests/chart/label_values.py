"""Values of labels that expressions name, read from the code that sets them."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import learnback
from learnback.contracts.models import CompletionEnd, Track
from learnback.core.errors import LearnbackError
from learnback.ledger.runs import RunState
from learnback.reward import metrics as reward
from learnback.reward.scorers.base import Verdict

PACKAGE = Path(learnback.__path__[0])


def _codes() -> set[str]:
    """The code of every error of ours."""
    for module in pkgutil.walk_packages(learnback.__path__, "learnback."):
        if module.name.endswith(".errors"):
            importlib.import_module(module.name)
    return {error.code for error in _family(LearnbackError)}


def _family(kind: type[LearnbackError]) -> Iterator[type[LearnbackError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _family(child)


def _checks() -> set[str]:
    """The names of all readiness checks: the dicts that go to `add_health_routes` or `checked`."""
    found: set[str] = set()
    for file in PACKAGE.rglob("*.py"):
        source = file.read_text()
        if "add_health_routes(" in source or "http_metrics.checked(" in source:
            found |= set(_checks_in(ast.parse(source)))
    return found


def _checks_in(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        value = None
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "checks":
            value = node.value
        if (
            isinstance(node, ast.Call)
            and getattr(node.func, "id", getattr(node.func, "attr", "")) == "add_health_routes"
        ):
            value = node.args[1]
        if isinstance(value, ast.Dict):
            yield from (k.value for k in value.keys if isinstance(k, ast.Constant))


def _outcomes() -> set[str]:
    """What scoring counts, by doing it once each."""
    for verdict in (Verdict(1.0), Verdict(None, "no text"), Verdict(None, "bug", fault=True)):
        reward.scored("label-values", "stable", verdict)
    (family,) = reward.SCORES.collect()
    return {s.labels["outcome"] for s in family.samples if s.labels["scorer"] == "label-values"}


LABEL_VALUES: dict[str, set[str]] = {
    "process": {"inference", "feedback", "reward", "reward-engine", "retraining", "release"},
    "end": {end.value for end in CompletionEnd},
    "track": {track.value for track in Track} | {"loaded"},
    "state": {state.value for state in RunState},
    "code": _codes(),
    "check": _checks(),
    "outcome": _outcomes(),
}
"""Each label of a matcher with all that it can be."""
