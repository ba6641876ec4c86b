"""One node's share of a run over several processes: torchrun around the job, with its exit status.

`python -m learnback.retraining.several [torchrun's options] RUN_DIRECTORY`. torchrun ends with 1
whatever its processes ended with, so Kubernetes could not tell bad data from a lost node; this ends
with the job's own status (plan.ExitCode), which the job leaves in progress.json.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from learnback.retraining.launcher import meant, read_progress

TORCHRUN = (sys.executable, "-m", "torch.distributed.run")
JOB = "learnback.retraining.job"


def main(arguments: list[str], module: str = JOB) -> int:
    """Run `module` by torchrun until all processes of this node have ended; the exit status."""
    *options, folder = arguments
    child = subprocess.Popen([*TORCHRUN, *options, "-m", module, folder])
    # every process of the job saves on SIGTERM; torchrun hands it on
    signal.signal(signal.SIGTERM, lambda number, _frame: child.send_signal(number))
    return meant(child.wait(), read_progress(Path(folder)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
