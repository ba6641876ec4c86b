"""Checkpoints that are whole or do not count, and training from the newest one."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from learnback.retraining.plan import sync, write_atomically
from learnback.retraining.trainers.processes import is_main

WHOLE_MARKER = "whole"  # the last file in a checkpoint: everything before it is synced


def mark_whole(checkpoints: Path, step: int) -> None:
    """Sync a checkpoint and mark it as whole: without the mark it is never resumed from."""
    directory = checkpoints / f"checkpoint-{step}"
    if not directory.is_dir():
        return
    with ThreadPoolExecutor() as pool:  # a disk takes many files at once in hardly longer than one
        list(pool.map(sync, [path for path in directory.rglob("*") if path.is_file()]))
    sync(directory)
    write_atomically(directory / WHOLE_MARKER, str(step))
    sync(directory.parent)


def newest(directory: Path) -> tuple[Path, int] | None:
    """The newest whole checkpoint under ``directory`` and its step; torn ones are removed on
    the way.
    """
    whole: list[tuple[int, Path]] = []
    for path in directory.glob("checkpoint-*"):
        step = _step_of(path)
        if step is not None:
            whole.append((step, path))
        elif is_main():
            shutil.rmtree(path, ignore_errors=True)
    if not whole:
        return None
    step, path = max(whole)
    return path, step


def _step_of(checkpoint: Path) -> int | None:
    if not (checkpoint / WHOLE_MARKER).is_file():
        return None
    try:
        return int(json.loads((checkpoint / "trainer_state.json").read_text())["global_step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def restore(trainer: Any, checkpoint: Path) -> None:
    """Load the weights and the history of a run that was trained to its end, but killed before it
    published: one step more would be wrong.
    """
    trainer._load_from_checkpoint(str(checkpoint))
    trainer.state = trainer.state.load_from_json(str(checkpoint / "trainer_state.json"))
