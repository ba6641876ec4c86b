"""One training run as a process of its own: ``python -m learnback.retraining.job RUN_DIRECTORY``.

Reads run.json and the dataset, trains, and publishes ``adapter/`` and ``result.json`` (see plan.py
for all of these). It may be killed at any time and started again: it goes on from its newest whole
checkpoint, and it does nothing when it is done. The exit status is plan.ExitCode.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from learnback.retraining.plan import (
    ADAPTER_DIRECTORY,
    CHECKPOINT_DIRECTORY,
    RESULT_FILE,
    TRAIN_FILE,
    ExitCode,
    RunPlan,
    RunResult,
    read_plan,
    sync,
    write_atomically,
)

if TYPE_CHECKING:
    from learnback.retraining.trainers.base import ProgressReport, Row, StopRequest, Trained

COLUMNS = "feedback_id", "prompt", "chosen", "rejected"
LIBRARIES = "torch", "transformers", "trl", "peft", "accelerate"


def main(arguments: list[str]) -> ExitCode:
    """Run the job in the directory that is the one argument."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m learnback.retraining.job RUN_DIRECTORY" + "\n")
        return ExitCode.BAD_DATA
    directory = Path(arguments[0])
    try:
        plan = read_plan(directory)
    except (OSError, ValidationError) as error:
        sys.stderr.write(f"bad plan in {directory}: {error}\n")
        return ExitCode.BAD_DATA
    if (directory / RESULT_FILE).is_file():
        sys.stdout.write(f"run {plan.run_id} is done already\n")
        return ExitCode.DONE
    return run(plan, directory)


def run(plan: RunPlan, directory: Path) -> ExitCode:
    """Train by ``plan`` and publish into ``directory``; every failure ends as an exit code and
    in progress.json.
    """
    terminated: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: terminated.append(number))
    from learnback.retraining.trainers.base import (  # slow: torch
        BadData,
        Interrupted,
        ProgressReport,
        StopRequest,
        describe,
    )

    stop = StopRequest(requested=bool(terminated))
    signal.signal(signal.SIGTERM, lambda _number, _frame: _request(stop))
    report = ProgressReport(directory, describe(plan))
    try:
        report.update()
        _train_and_publish(plan, directory, report, stop)
    except Interrupted:
        report.update(state="interrupted", error="SIGTERM")
        return ExitCode.INTERRUPTED
    except BadData as error:
        report.update(state="failed", error=str(error))
        return ExitCode.BAD_DATA
    except Exception as error:
        traceback.print_exc()
        report.update(state="failed", error=f"{type(error).__name__}: {error}")
        return ExitCode.INTERNAL
    return ExitCode.DONE


def _request(stop: StopRequest) -> None:
    stop.requested = True


def _train_and_publish(
    plan: RunPlan, directory: Path, report: ProgressReport, stop: StopRequest
) -> None:
    started = time.monotonic()
    rows = load_rows(plan.dataset)
    from learnback.retraining.trainers import dpo  # slow: TRL

    trained = dpo.train(plan, rows, directory, report, stop)
    digest = publish_adapter(trained.model, directory, plan.base_model)
    result = _result(plan, trained, digest, time.monotonic() - started)
    write_atomically(directory / RESULT_FILE, result.model_dump_json(indent=2))
    shutil.rmtree(directory / CHECKPOINT_DIRECTORY, ignore_errors=True)
    report.update(state="done")


def load_rows(dataset: Path) -> list[Row]:
    """Read ``dataset/train.parquet``.

    Columns: feedback_id, prompt (JSON list of chat messages), chosen, rejected: str; optional:
    margin: float (1.0), chosen_finished and rejected_finished: bool (True; False says that the
    token limit cut the answer off).
    Raises BadData if the file is missing, empty or malformed.
    """
    import pyarrow.parquet

    from learnback.retraining.trainers.base import BadData

    path = dataset / TRAIN_FILE
    try:
        table = pyarrow.parquet.read_table(path)
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise BadData(f"can't read {path.name}: {error}") from error
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise BadData(f"{path.name} lacks the columns {', '.join(missing)}")
    if table.num_rows == 0:
        raise BadData(f"{path.name} is empty: there is nothing to learn from")
    return [_row(record) for record in table.to_pylist()]


def _row(record: dict[str, Any]) -> Row:
    from learnback.retraining.trainers.base import BadData, Row

    try:
        prompt = [
            {"role": str(message["role"]), "content": str(message["content"])}
            for message in json.loads(record["prompt"])
        ]
    except (TypeError, ValueError, KeyError) as error:
        raise BadData(
            f"feedback {record['feedback_id']}: the prompt is no list of messages"
        ) from error
    if not prompt or not all(isinstance(record[side], str) for side in ("chosen", "rejected")):
        raise BadData(f"feedback {record['feedback_id']}: the prompt or an answer is missing")
    margin = record.get("margin")
    return Row(
        feedback_id=str(record["feedback_id"]),
        prompt=prompt,
        chosen=record["chosen"],
        rejected=record["rejected"],
        margin=1.0 if margin is None else float(margin),
        chosen_finished=record.get("chosen_finished") is not False,
        rejected_finished=record.get("rejected_finished") is not False,
    )


def publish_adapter(model: Any, directory: Path, base_model: str) -> str:
    """Save only the adapter's safetensors and configuration, mode 0644, whole or not at all;
    returns its SHA-256.

    The configuration keeps the base model's name and not its path, and its lists are sorted: the
    same weights give the same bytes.
    """
    target = directory / ADAPTER_DIRECTORY
    partial = Path(tempfile.mkdtemp(prefix=f".{ADAPTER_DIRECTORY}.", dir=directory))
    try:
        model.save_pretrained(partial, safe_serialization=True)
        configuration = _portable(
            json.loads((partial / "adapter_config.json").read_text()), base_model
        )
        (partial / "adapter_config.json").write_text(
            json.dumps(configuration, indent=2, sort_keys=True)
        )
        for path in partial.iterdir():
            if path.name not in ("adapter_model.safetensors", "adapter_config.json"):
                path.unlink()
                continue
            path.chmod(0o644)
            sync(path)
        partial.chmod(0o755)
        sync(partial)
        digest = hashlib.sha256((partial / "adapter_model.safetensors").read_bytes()).hexdigest()
        shutil.rmtree(
            target, ignore_errors=True
        )  # left by a process that was killed before result.json
        os.rename(partial, target)
        sync(directory)
        return digest
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _portable(configuration: dict[str, Any], base_model: str) -> dict[str, Any]:
    changed = {
        **configuration,
        "base_model_name_or_path": base_model.rstrip("/").rpartition("/")[2],
    }
    changed["target_modules"] = sorted(configuration["target_modules"])
    return changed


def _result(plan: RunPlan, trained: Trained, digest: str, seconds: float) -> RunResult:
    return RunResult(
        run_id=plan.run_id,
        seed=plan.seed,
        steps=trained.steps,
        seconds=round(seconds, 1),
        resumed_from_step=trained.resumed_from_step,
        rows_used=trained.rows_used,
        rows_skipped=trained.rows_skipped,
        metrics=trained.metrics,
        distance_from_reference=trained.distance_from_reference,
        adapter_sha256=digest,
        versions={name: version(name) for name in LIBRARIES},
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
