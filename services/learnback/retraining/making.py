"""What lies in the folder of a run whose job is done, read, named and measured. Blocking."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learnback import __version__
from learnback.contracts.models import FeedbackStatus, VersionKind
from learnback.core.clock import now
from learnback.ledger.runs import Run
from learnback.ledger.training import Outcome
from learnback.models import linear_reward
from learnback.registry import store
from learnback.registry.artifacts import digest_folder
from learnback.registry.store import ModelVersion
from learnback.retraining.comparing import Judged
from learnback.retraining.datasets import rows
from learnback.retraining.datasets.dataset import ROWS
from learnback.retraining.datasets.files import Manifest, load_manifest, load_pairs
from learnback.retraining.datasets.rows import PreferenceRow
from learnback.retraining.plan import (
    JUDGED_FILE,
    MODEL_DIRECTORY,
    RESULT_FILE,
    TRAIN_FILE,
    RunResult,
)
from learnback.retraining.trainers import linear_reward as fitting

DATASET_DIRECTORY, REWARD_DIRECTORY, REPORT_DIRECTORY = "dataset", "reward", "report"
LINEAR, NEURAL = {"kind": "linear"}, {"kind": "neural"}


@dataclass(frozen=True)
class Made:
    """A version, with its files."""

    version: ModelVersion
    files: Path


@dataclass(frozen=True)
class MadeReward(Made):
    """A reward model, with what it makes of held-out pairs."""

    judged: Judged


@dataclass(frozen=True)
class Collected:
    """All that came of a run."""

    outcomes: dict[str, Outcome]
    """Of the run's signals."""
    trained: Made
    reward: MadeReward | None
    """The reward model that may come into use: the one that was trained, else one fitted to the
    pairs; None where there are no pairs."""
    held_out: list[PreferenceRow]
    """Pairs to compare reward models by."""


def collect(run: Run, base: ModelVersion, folder: Path) -> Collected:
    """Read what the job left, fit the linear reward model, and name both by their digests."""
    manifest = load_manifest(folder / DATASET_DIRECTORY)
    result = RunResult.model_validate_json((folder / RESULT_FILE).read_bytes())
    pairs, held_out = load_pairs(folder / DATASET_DIRECTORY)
    made = Made(_trained(run, base, manifest, result, folder), folder / result.published)
    if made.version.kind is VersionKind.REWARD_MODEL:
        judged = Judged(True, read_margins(made.files))
        reward: MadeReward | None = MadeReward(made.version, made.files, judged)
    else:
        reward = _fitted(run, base, manifest, pairs, held_out, folder)
    outcomes = _outcomes(manifest, result, folder / DATASET_DIRECTORY / TRAIN_FILE)
    return Collected(outcomes, made, reward, held_out)


def _outcomes(manifest: Manifest, result: RunResult, trained_on: Path) -> dict[str, Outcome]:
    """What became of the signals: as the dataset said, but for rows that the job left out, such as
    those with more tokens than the model can see."""
    found = manifest.outcome_of()
    left_out = {i: why for i, why in result.skipped.items() if why != "duplicate"}
    if not left_out:
        return found
    learned = rows.read(trained_on, ROWS[result.method])
    firsts = Counter(row.feedback_ids[0] for row in learned if row.feedback_ids)
    gone = [r for r in learned if r.feedback_ids and r.feedback_ids[0] in left_out]
    gone = [row for row in gone if firsts[row.feedback_ids[0]] == 1]  # else one of them was used
    used = {i for row in learned if row not in gone for i in row.feedback_ids}
    for row in gone:
        why = Outcome(FeedbackStatus.RECORDED, left_out[row.feedback_ids[0]])
        found |= {i: why for i in row.feedback_ids if i not in used}
    return found


def read_margins(files: Path) -> dict[str, float]:
    """What a neural reward model made of held-out pairs; none if it does not say."""
    path = files / JUDGED_FILE
    found: dict[str, float] = json.loads(path.read_bytes()) if path.is_file() else {}
    return found


def judge(version: ModelVersion, files: Path, held_out: list[PreferenceRow]) -> Judged:
    """A reward model that was made earlier. Raises ValueError if it can't be read."""
    if version.config.get("kind") == NEURAL["kind"]:
        return Judged(True, read_margins(files))
    return Judged(False, fitting.held_out_margins(linear_reward.load(files), held_out))


def _trained(
    run: Run, base: ModelVersion, manifest: Manifest, result: RunResult, folder: Path
) -> ModelVersion:
    """What the job made, as a version."""
    if run.method == "reward_model":
        kind, config = VersionKind.REWARD_MODEL, run.config | NEURAL
    else:
        kind, config = VersionKind.ADAPTER, run.config
    if result.published == MODEL_DIRECTORY and kind is VersionKind.ADAPTER:
        kind = VersionKind.MODEL
    named = _version(run, base, manifest, run.method, kind, folder / result.published)
    return named.model_copy(
        update={
            "parent": run.parent,
            "config": config | {"method": run.method},
            "metrics": _metrics(result, manifest),
        }
    )


def _fitted(
    run: Run,
    base: ModelVersion,
    manifest: Manifest,
    pairs: list[PreferenceRow],
    held_out: list[PreferenceRow],
    folder: Path,
) -> MadeReward | None:
    """The linear reward model of the run's pairs; None without one that says anything."""
    if not any(row.votes * row.margin > 0 for row in pairs):
        return None
    model, metrics = fitting.train(pairs, held_out, seed=run.seed)
    files = folder / REWARD_DIRECTORY
    _save_whole(model, files)
    version = _version(run, base, manifest, "reward", VersionKind.REWARD_MODEL, files)
    version = version.model_copy(update={"metrics": metrics, "config": LINEAR})
    return MadeReward(version, files, Judged(False, fitting.held_out_margins(model, held_out)))


def _version(
    run: Run, base: ModelVersion, manifest: Manifest, method: str, kind: VersionKind, files: Path
) -> ModelVersion:
    digest, at = digest_folder(files), now()
    name = store.version_name(base.base, method.replace("_", "-"), digest)
    return ModelVersion(
        name=name,
        kind=kind,
        base=base.base,
        base_digest=base.base_digest,
        artifact=name,
        artifact_digest=digest,
        run_id=run.id,
        dataset_fingerprint=manifest.fingerprint,
        seed=run.seed,
        code_version=__version__,
        created_at=at,
        changed_at=at,
    )


def _metrics(result: RunResult, manifest: Manifest) -> dict[str, Any]:
    return {
        **result.metrics,
        "distance_from_reference": result.distance_from_reference,
        "steps": result.steps,
        "seconds": result.seconds,
        "rows_used": result.rows_used,
        "rows_skipped": result.rows_skipped,
        "prompts_left_out": manifest.prompts_left_out,
        "train_rows": manifest.rows["train"],
        "held_out_rows": manifest.rows["held_out"],
        "libraries": result.versions,
    }


def _save_whole(model: linear_reward.LinearRewardModel, target: Path) -> None:
    """All files or none, also if a crash left half of them."""
    partial = target.with_name(f".{target.name}.partial")
    for folder in (partial, target):
        shutil.rmtree(folder, ignore_errors=True)
    model.save(partial)
    os.replace(partial, target)


def gather_report(folder: Path) -> Path | None:
    """The run's report in a folder of its own, to be kept; None if the job wrote none."""
    pages = sorted(folder.glob("report*.*"))
    if not pages:
        return None
    target = folder / REPORT_DIRECTORY
    target.mkdir(exist_ok=True)
    for page in pages:
        shutil.copyfile(page, target / page.name)
    return target
