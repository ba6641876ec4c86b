"""Finding a preference by its name, or in a file of the user's own."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path

from learnback_simulator.preferences import PREFERENCES, Score, noise


class PreferenceError(ValueError):
    """There is no such preference, or its file does not hold a usable `score`."""


def load_preference(name: str, seed: int = 0) -> Score:
    """The preference called `name`, or `score` of the file `name` if it ends with `.py`.

    A score from a file is checked at each call: PreferenceError names the prompt if it raises
    or gives no finite number.
    """
    if name == "noise":
        return noise(seed)
    if name in PREFERENCES:
        return PREFERENCES[name]
    if name.endswith(".py"):
        return _checked(_from_file(Path(name)), name)
    known = ", ".join(sorted(PREFERENCES))
    raise PreferenceError(f"no preference {name!r}; there are: {known}, or a FILE.py")


def _from_file(path: Path) -> Score:
    if not path.is_file():
        raise PreferenceError(f"no file {str(path)!r}")
    spec = importlib.util.spec_from_file_location(f"preference_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise PreferenceError(f"{path} can't be read as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise PreferenceError(f"{path} fails when it is read: {error!r}") from error
    score = getattr(module, "score", None)
    if not callable(score):
        raise PreferenceError(
            f"{path} has no function `score`; write: def score(prompt: str, answer: str) -> float"
        )
    return score  # type: ignore[no-any-return]


def _checked(score: Score, name: str) -> Score:
    def checked(prompt: str, answer: str) -> float:
        try:
            value = float(score(prompt, answer))
        except Exception as error:
            raise PreferenceError(f"{name} fails on the prompt {prompt!r}: {error!r}") from error
        if not math.isfinite(value):
            raise PreferenceError(f"{name} gives {value} on the prompt {prompt!r}")
        return value

    return checked
