"""A training job of a moment: counts steps in its folder and goes on after a kill.

It writes a report, and tells of a reward model what it makes of held-out pairs.
QUICK_JOB: `done`, one of `FAILURES`, `crash`, `crash_once`, or `wait` (trains until a file `go`
appears).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

STEPS = 3
FAILURES = {
    "bad_data": (65, "row 3 is no row"),
    "out_of_memory": (71, "no memory is left"),
    "diverged": (76, "the loss is no number"),
}


def main(folder: Path) -> int:
    behaviour = os.environ.get("QUICK_JOB", "done")
    plan = json.loads((folder / "run.json").read_text())
    starts = folder / "starts"
    write(starts, int(starts.read_text()) + 1 if starts.exists() else 1)
    if behaviour in FAILURES:
        code, said = FAILURES[behaviour]
        progress(folder, plan, 0, "failed", said)
        return code
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
    line |= {"loss": 1 / (step + 1), "error": error, "seconds": 0.5 * step}
    partial = folder / ".progress"
    partial.write_text(json.dumps(line))
    partial.replace(folder / "progress.json")


def publish(folder: Path, plan: dict) -> None:
    adapter = folder / "adapter"
    adapter.mkdir(exist_ok=True)
    (adapter / "adapter_model.safetensors").write_text(f"{plan['seed']} {plan['run_id']}")
    measured = {"loss": 0.5}
    if plan.get("method") == "reward_model":
        measured |= judge(adapter, Path(plan["dataset"]))
    (folder / "report.html").write_text(f"<h1>{plan['run_id']}</h1>")
    (folder / "report.md").write_text(f"# {plan['run_id']}")
    result = {
        "run_id": plan["run_id"],
        "method": plan.get("method", "dpo"),
        "seed": plan["seed"],
        "steps": STEPS,
        "seconds": 0.1,
        "rows_used": 1,
        "skipped": left_out(plan),
        "rows_skipped": {},
        "metrics": measured,
        "distance_from_reference": 0.02,
        "adapter_sha256": "0",
        "versions": {},
    }
    partial = folder / ".result"
    partial.write_text(json.dumps(result))
    partial.replace(folder / "result.json")


def left_out(plan: dict) -> dict[str, str]:
    """The first row, if QUICK_SKIP gives a reason."""
    reason = os.environ.get("QUICK_SKIP")
    if not reason:
        return {}
    manifest = json.loads((Path(plan["dataset"]) / "manifest.json").read_text())
    return {manifest["feedback_ids"]["train"][0]: reason}


def judge(weights: Path, dataset: Path) -> dict[str, float]:
    """As if every held-out pair were told apart by QUICK_MARGIN logits."""
    held_out = json.loads((dataset / "manifest.json").read_text())["feedback_ids"]["held_out"]
    margin = float(os.environ.get("QUICK_MARGIN", "20"))
    (weights / "held_out_margins.json").write_text(json.dumps(dict.fromkeys(held_out, margin)))
    right = 1.0 if margin > 0 else 0.0
    return {"held_out_pairs": float(len(held_out)), "held_out_accuracy": right}


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
