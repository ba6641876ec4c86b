"""What a training step frees, the next one takes again, without asking the system."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

STEPS = """
import resource
from learnback.retraining.trainers.allocator import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def step():  # three tensors, as it were: together more than glibc would keep
    return [b"x" * (20 << 20) for _ in range(3)]

if {kept}:
    keep_freed_memory()
for _ in range(3):
    step()
before = faults()
for _ in range(5):
    step()
print(faults() - before)
"""


def faults(*, kept: bool) -> int:
    code = STEPS.format(kept=kept)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library decides by itself")
def test_memory_that_was_freed_is_taken_again() -> None:
    pages = 5 * 3 * (20 << 20) // 4096

    assert faults(kept=True) < pages / 100
    assert faults(kept=False) > pages / 2, "else there is nothing to mend"
