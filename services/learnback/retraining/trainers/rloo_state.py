"""What a policy-gradient run remembers from step to step, and its checkpoints.

Randomness needs no remembering: what a step draws is a function of the plan's seed and the step's
number. So a run that was killed goes on to the same weights.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors.torch import load_file, save_file

from learnback.retraining.plan import sync
from learnback.retraining.trainers import checkpoints, processes
from learnback.retraining.trainers.policy import trainable

STATE_FILE = "trainer_state.json"
WEIGHTS_FILE, OPTIMIZER_FILE = "trainable.safetensors", "optimizer.pt"


@dataclass
class RlooState:
    """Everything that the next step depends on, beside weights and optimiser."""

    beta: float
    global_step: int = 0
    base_length: float = 0.0
    """Mean tokens of the base model's answers to the evaluation prompts."""
    base_scores: list[float] = field(default_factory=list)
    """What the held-out judge thinks of them."""
    best_step: int = 0
    """Whose weights will be published; 0: none was evaluated yet."""
    best_win_rate: float | None = None
    """By the held-out judge; None: there is no judge."""
    drift: str = ""
    """Why the run ended before its last step."""
    history: list[dict[str, float]] = field(default_factory=list)
    """The metrics of each step."""


def save(folder: Path, state: RlooState, model: Any, optimizer: torch.optim.Optimizer) -> None:
    """Write ``folder/checkpoint-N``, marked as whole at the very end, and drop older ones. The
    first process does, the others wait.
    """
    if processes.is_main():
        _write(folder, state, model, optimizer)
    processes.wait_for_all()


def _write(folder: Path, state: RlooState, model: Any, optimizer: torch.optim.Optimizer) -> None:
    target = folder / f"checkpoint-{state.global_step}"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    _save_weights(model, target / WEIGHTS_FILE)
    torch.save(optimizer.state_dict(), target / OPTIMIZER_FILE)
    (target / STATE_FILE).write_bytes(msgspec.json.encode(state))
    checkpoints.mark_whole(folder, state.global_step)
    _drop_old(folder, state)


def restore(folder: Path, model: Any, optimizer: torch.optim.Optimizer, beta: float) -> RlooState:
    """Go on from the newest whole checkpoint, or begin with ``beta``."""
    newest = checkpoints.newest(folder)
    if newest is None:
        return RlooState(beta=beta)
    path, _ = newest
    _load_weights(model, path / WEIGHTS_FILE)
    optimizer.load_state_dict(torch.load(path / OPTIMIZER_FILE, weights_only=True))
    return msgspec.json.decode((path / STATE_FILE).read_bytes(), type=RlooState)


def keep_best(folder: Path, state: RlooState, model: Any) -> None:
    """Keep the weights of this step as the best so far."""
    if processes.is_main():
        folder.mkdir(parents=True, exist_ok=True)
        path = _best_file(folder, state.global_step)
        _save_weights(model, path)
        sync(path)
    state.best_step = state.global_step


def load_best(folder: Path, state: RlooState, model: Any) -> None:
    """Put the best weights in the place of the last ones."""
    _load_weights(model, _best_file(folder, state.best_step))


def _load_weights(model: Any, path: Path) -> None:
    """In place, so that the optimiser goes on with the same tensors."""
    saved = load_file(path)
    with torch.no_grad():
        for name, parameter in trainable(model).items():
            parameter.copy_(saved[name])


def _save_weights(model: Any, path: Path) -> None:
    save_file({name: p.detach().contiguous() for name, p in trainable(model).items()}, path)


def _best_file(folder: Path, step: int) -> Path:
    return folder / f"best-{step}.safetensors"


def _drop_old(folder: Path, state: RlooState) -> None:
    """Called once the new checkpoint is whole: until then a resumed run needs the old files."""
    for path in folder.glob("checkpoint-*"):
        if path.name != f"checkpoint-{state.global_step}":
            shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob("best-*.safetensors"):
        if path != _best_file(folder, state.best_step):
            path.unlink()
