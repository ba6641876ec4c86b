"""Stands in for the training job under torchrun: says who it is, and ends as it is told.

DISTRIBUTED_JOB: `bad_data`, or `wait` (until SIGTERM, then as the job does: 75).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path


def main(folder: Path) -> int:
    rank, behaviour = os.environ["RANK"], os.environ["DISTRIBUTED_JOB"]
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    (folder / f".rank-{rank}").write_text(os.environ["WORLD_SIZE"])
    os.replace(folder / f".rank-{rank}", folder / f"rank-{rank}")
    while behaviour == "wait" and not stopped:
        time.sleep(0.02)
    code = {"bad_data": 65, "wait": 75}[behaviour]
    if rank == "0":
        state = "interrupted" if stopped else "failed"
        line = {"run_id": folder.name, "state": state, "exit_code": code}
        (folder / ".progress").write_text(json.dumps(line))
        os.replace(folder / ".progress", folder / "progress.json")
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
