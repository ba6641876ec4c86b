"""The model that is served if none is named: SmolLM2-135M-Instruct out of a pip package."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console

from learnback.models import smollm2

NAME = "smollm2-135m-instruct"


def cache_folder() -> Path:
    """Where prepared models are kept between runs (XDG base directories)."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "learnback" / "models"


def resolve_model(model: str | None, console: Console) -> str:
    """The model to serve: as named, else `LEARNBACK_MODEL`, else the small one, prepared once."""
    chosen = model or os.environ.get("LEARNBACK_MODEL")
    if chosen:
        return str(Path(chosen).absolute()) if Path(chosen).is_dir() else chosen
    folder = cache_folder() / NAME
    with console.status("preparing SmolLM2-135M-Instruct (once, about a minute)"):
        return str(smollm2.prepare(folder))
