"""The C library's memory in a training job: what a step frees, the next one takes again.

glibc gives freed memory back to the system beyond a threshold that it guesses from what it has
seen. Where it guesses low, every step faults in the same pages once more: a fifth of the time on a
small model on a CPU.
"""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
LARGEST_ON_THE_HEAP = 32 << 20
"""Bytes; the most that glibc allows. What is larger goes back to the system when it is freed."""
KEPT = 1 << 30
"""Bytes at the heap's end that may lie idle."""


def keep_freed_memory() -> None:
    """For this process, from now on; nothing where the C library is another one."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_ON_THE_HEAP)
        mallopt(M_TRIM_THRESHOLD, KEPT)
