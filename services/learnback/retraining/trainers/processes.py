"""Processes that train together, by `accelerate launch` or torchrun: whose share is what, and what
all of them know. With one process alone nothing is sent.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import distributed

T = TypeVar("T")


def count() -> int:
    """How many train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Which of them this one is, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_main() -> bool:
    """Whether this process is the first of them, which alone writes."""
    return rank() == 0


def join() -> None:
    """Meet the others; TRL's trainers do so by themselves."""
    if count() > 1:
        from accelerate import PartialState

        PartialState(cpu=not torch.cuda.is_available())


def share(things: int) -> slice:
    """Which of so many things are this process's; no two shares differ by more than one."""
    return slice(rank() * things // count(), (rank() + 1) * things // count())


def gathered(mine: list[T]) -> list[T]:
    """The lists of all, one after the other."""
    if not distributed.is_initialized():
        return mine
    found: list[Any] = [None] * count()
    distributed.all_gather_object(found, mine)
    return [thing for part in found for thing in part]


def from_main(make: Callable[[], T]) -> T:
    """What the first process makes."""
    if not distributed.is_initialized():
        return make()
    found: list[Any] = [make() if is_main() else None]
    distributed.broadcast_object_list(found)
    made: T = found[0]
    return made


def add_up(tensors: Iterable[torch.Tensor]) -> None:
    """Replace each tensor by its sum over all."""
    if distributed.is_initialized():
        for tensor in tensors:
            distributed.all_reduce(tensor)


def totals(sums: Mapping[str, float], device: torch.device) -> dict[str, float]:
    """Each number's sum over all; everybody has the same names."""
    values = torch.tensor(list(sums.values()), dtype=torch.float64, device=device)
    add_up([values])
    return dict(zip(sums, values.tolist(), strict=True))


def largest(value: float, device: torch.device) -> float:
    """The largest that anybody has."""
    if not distributed.is_initialized():
        return value
    said = torch.tensor(value, dtype=torch.float64, device=device)
    distributed.all_reduce(said, distributed.ReduceOp.MAX)
    return float(said.item())


def any_of_them(flag: bool, device: torch.device) -> bool:
    """Whether anybody says so: they must stop at one step."""
    return bool(largest(float(flag), device))


def wait_for_all() -> None:
    """Go on when everybody is here."""
    if distributed.is_initialized():
        distributed.barrier()
