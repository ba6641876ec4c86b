"""How a run can end other than done; without torch, so that the job can name them first."""

from __future__ import annotations


class BadData(ValueError):
    """The plan or the dataset can't be trained on, now or later."""


class Diverged(RuntimeError):
    """The loss or the weights are no numbers any more."""


class Interrupted(Exception):
    """Asked to stop: a checkpoint is kept."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: Python's, the GPU's, or the CPU allocator's, which PyTorch reports
    as a plain RuntimeError.
    """
    if isinstance(error, MemoryError):
        return True
    name, text = type(error).__name__, str(error).lower()
    memory = "out of memory" in text or "can't allocate memory" in text
    return name == "OutOfMemoryError" or (isinstance(error, RuntimeError) and memory)
