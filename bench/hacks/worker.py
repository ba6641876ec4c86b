"""What a process of the pool does: a seed, with torch loaded only there."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any


def base(folder: Path) -> None:
    """Make the stable version."""
    from bench.hacks.trial import make_base  # slow: torch

    make_base(folder)


def one_seed(seed: int, kinds: Sequence[str], base: Path) -> list[dict[str, Any]]:
    """All candidates of a seed, in a folder that goes away."""
    from bench.hacks.trial import run_seed  # slow: torch

    with tempfile.TemporaryDirectory(prefix="learnback-hacks-") as folder:
        return [asdict(result) for result in run_seed(seed, kinds, base, Path(folder))]
