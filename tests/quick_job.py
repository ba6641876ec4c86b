"""A training job of a moment: counts steps in its folder and goes on after a kill.

QUICK_JOB: `done`, `bad_data`, `crash`, `crash_once`, or `wait` (trains until a file `go` appears).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

STEPS = 3


def main(folder: Path) -> int:
    behaviour = os.environ.get("QUICK_JOB", "done")
    plan = json.loads((folder / "run.json").read_text())
    starts = folder / "starts"
    write(starts, int(starts.read_text()) + 1 if starts.exists() else 1)
    if behaviour == "bad_data":
        progress(folder, plan, 0, "failed", "row 3 is no row")
        return 65
    if behaviour == "crash" or (behaviour == "crash_once" and starts.read_text() == "1"):
        return 70
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    saved = int((folder / "step").read_text()) if (folder / "step").exists() else 0
    step = min(saved, STEPS - 1)  # the last step is done only once it is published
    while step < STEPS:
        step += 1
        write(folder / "step", step)
        progress(folder, plan, step, "training")
        while behaviour == "wait" and step >= STEPS - 1 and not (folder / "go").exists():
            if stopped:
                return 75
            time.sleep(0.01)
    publish(folder, plan)
    progress(folder, plan, STEPS, "done")
    return 0


def write(path: Path, number: int) -> None:
    """Whole or not at all: a kill or a reader may come at any moment."""
    partial = path.with_name(f".{path.name}")
    partial.write_text(str(number))
    partial.replace(path)


def progress(folder: Path, plan: dict, step: int, state: str, error: str | None = None) -> None:
    line = {"run_id": plan["run_id"], "state": state, "step": step, "max_steps": STEPS}
    partial = folder / ".progress"
    partial.write_text(json.dumps(line | {"loss": 1 / (step + 1), "error": error}))
    partial.replace(folder / "progress.json")


def publish(folder: Path, plan: dict) -> None:
    adapter = folder / "adapter"
    adapter.mkdir(exist_ok=True)
    (adapter / "adapter_model.safetensors").write_text(f"{plan['seed']} {plan['run_id']}")
    result = {
        "run_id": plan["run_id"],
        "seed": plan["seed"],
        "steps": STEPS,
        "seconds": 0.1,
        "rows_used": 1,
        "rows_skipped": {},
        "metrics": {"loss": 0.5},
        "distance_from_reference": 0.02,
        "adapter_sha256": "0",
        "versions": {},
    }
    partial = folder / ".result"
    partial.write_text(json.dumps(result))
    partial.replace(folder / "result.json")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
