"""A Bradley-Terry reward model with TRL: the base model with one number as its head.

P(a beats b) = sigmoid(r(a) - r(b)) (Bradley and Terry 1952, Biometrika 39:324). A preference of
strength s must exceed ``margin * s`` (arXiv:2307.09288, eq. 2), and a tie means that neither answer
exceeds the other by ``margin`` (Rao and Kupper 1967, JASA 62:194): one threshold for both, since
sigmoid(difference - threshold) is Rao and Kupper's chance to win. Rewards are kept near 0 while
training and are centred after it; their temperature is fitted on pairs that were held out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import set_seed
from trl import RewardConfig, RewardTrainer

from learnback.core.report import Heading, Part, Text, table
from learnback.models.linear_reward import evaluate_margins, metrics_of
from learnback.models.reward import PROBE
from learnback.models.reward_head import at_the_end
from learnback.registry.artifacts import digest_model
from learnback.retraining.plan import JUDGED_FILE, RewardHyperparameters, RunPlan
from learnback.retraining.trainers.base import (
    BadData,
    Encoder,
    OwnRows,
    ProgressReport,
    Rows,
    StopRequest,
    Trained,
    arguments,
    check_stop,
    fit,
    pick,
    steps_of,
)
from learnback.retraining.trainers.calibration import (
    cross_fitted,
    fit_temperature,
    reliability_plot,
)
from learnback.retraining.trainers.encoding import (
    Answer,
    Encoded,
    Skip,
    Usable,
    column,
    padded,
    select,
)
from learnback.retraining.trainers.failures import Diverged
from learnback.retraining.trainers.loading import load_scorer, load_tokenizer
from learnback.retraining.trainers.losses import pair_losses
from learnback.retraining.trainers.progress import (
    history_of,
    mean_of_last_quarter,
    train_seconds_of,
)
from learnback.retraining.trainers.rows import PairRow

DESCRIPTION_FILE = "reward.json"
CENTRED_ON = 256
"""Training answers whose mean reward becomes 0."""
CALIBRATED_ON = 512
"""Held-out pairs at most; more change a temperature little and cost time."""
SHOWN = 10
METRICS = {
    "loss": "loss",
    "rewards/accuracies": "reward_accuracy",
    "rewards/margins": "reward_margin",
    "rewards/chosen": "chosen_reward",
    "rewards/rejected": "rejected_reward",
    "lengths/answers": "answer_tokens",
}


class _Trainer(OwnRows, RewardTrainer):  # type: ignore[misc]
    """TRL's trainer with ties."""

    settings: RewardHyperparameters

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """The loss of one batch of pairs: () in nats. The first half of the rows is chosen."""
        rewards = scores(model, inputs)
        chosen, rejected = rewards.chunk(2)  # (pairs,)
        tie = inputs["tie"].bool()
        losses = pair_losses(chosen - rejected, inputs["margin"], tie, self.settings.margin)
        ranked = ~tie
        self.watch(
            {
                "rewards/accuracies": (chosen > rejected)[ranked].float(),
                "rewards/margins": (chosen - rejected)[ranked],
                "rewards/chosen": chosen[ranked],
                "rewards/rejected": rejected[ranked],
                "lengths/answers": inputs["completion_mask"].sum(1).float(),
            }
        )
        return losses.mean() + self.settings.centering * ((chosen + rejected) ** 2).mean()


def train(
    plan: RunPlan,
    rows: Rows[PairRow],
    directory: Path,
    report: ProgressReport,
    stop: StopRequest,
) -> Trained:
    """Train until the plan's last step, from the newest whole checkpoint in ``directory`` if there
    is one; then centre and calibrate.

    Raises BadData if no row ranks two answers, Diverged if a number is none, Interrupted after
    SIGTERM (with a checkpoint).
    """
    settings = plan.settings(RewardHyperparameters)
    set_seed(plan.seed)
    encoder = Encoder.of(plan, load_tokenizer(plan.base_model))
    usable, skipped = select(rows.train, encoder, both_answers, _unusable)
    if all(row.tie for row, _ in usable):
        raise BadData(f"all {len(usable)} usable pairs are ties: nothing says which is better")
    check_stop(stop)
    trainer = make_trainer(plan, directory, encoder, usable)
    resumed = fit(trainer, report, stop, METRICS)
    steps = trainer.args.max_steps
    report.update(state="measuring", step=steps, max_steps=steps, eta_seconds=None)
    trained = Trained(
        model=trainer.accelerator.unwrap_model(trainer.model),
        tokenizer=encoder.tokenizer,
        steps=steps,
        resumed_from_step=resumed,
        rows_used=len(usable),
        rows_skipped=dict(skipped.counts),
        skipped=skipped.reasons,
        metrics={},
        train_seconds=train_seconds_of(trainer.state.log_history),
        history=history_of(trainer.state.log_history, METRICS),
    )
    trained.metrics = mean_of_last_quarter(trained.history)
    if report.main:
        _calibrate(plan, encoder, settings, usable, rows.held_out, trained)
    return trained


def scores(model: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The raw reward of each row, (rows,)."""
    return at_the_end(model, inputs["input_ids"], inputs["attention_mask"])


def score_all(model: Any, sequences: Sequence[Encoded], pad_token_id: int) -> list[float]:
    """Raw rewards of many answers, in order; computed in batches of like length.

    Raises Diverged if one is no number.
    """
    model.eval()
    order = sorted(range(len(sequences)), key=lambda i: sum(map(len, sequences[i])))
    found = [0.0] * len(sequences)
    for start in range(0, len(order), 16):
        batch = order[start : start + 16]
        inputs = padded([sequences[i] for i in batch], pad_token_id)
        with torch.no_grad():
            rewards = scores(model, {n: t.to(model.device) for n, t in inputs.items()})
        for i, reward in zip(batch, rewards.tolist(), strict=True):
            found[i] = reward
    if not all(map(math.isfinite, found)):
        raise Diverged("a reward is not finite")
    return found


def both_answers(row: PairRow) -> list[Answer]:
    """The chosen answer and the rejected one, as the scorer sees them: always ended."""
    return [Answer(row.chosen, True), Answer(row.rejected, True)]


def _unusable(row: PairRow) -> str | None:
    if row.chosen == row.rejected:
        return "identical"
    return None if row.tie or row.margin > 0 else "no_margin"


def make_trainer(
    plan: RunPlan, directory: Path, encoder: Encoder, usable: Sequence[Usable]
) -> _Trainer:
    """A trainer that stands before its first step."""
    settings = plan.settings(RewardHyperparameters)
    trainer = _Trainer(
        model=load_scorer(plan),
        args=arguments(RewardConfig, plan, directory, steps_of(settings, len(usable))),
        train_dataset=_dataset(usable),
        data_collator=_Collator(encoder.tokenizer.pad_token_id),
        processing_class=encoder.tokenizer,
    )
    trainer.settings = settings
    return trainer


def _dataset(usable: Sequence[Usable]) -> Dataset:
    return Dataset.from_list(
        [
            {
                "answers": [answer._asdict() for answer in answers],
                "margin": min(row.margin, 1.0),
                "tie": row.tie,
            }
            for row, answers in usable
        ]
    )


class _Collator:
    """All chosen answers, then all rejected ones."""

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, examples: list[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        sequences = [Encoded(**e["answers"][side]) for side in (0, 1) for e in examples]
        numbers = {name: column(examples, name) for name in ("margin", "tie")}
        return {**padded(sequences, self.pad_token_id), **numbers}


def _calibrate(
    plan: RunPlan,
    encoder: Encoder,
    settings: RewardHyperparameters,
    usable: Sequence[Usable],
    held_out: Sequence[PairRow],
    trained: Trained,
) -> None:
    """Add the centre, the temperature, and what held-out pairs say of both."""
    pad = encoder.tokenizer.pad_token_id
    seen = pick([answer for _, answers in usable for answer in answers], CENTRED_ON, plan.seed)
    centre = float(np.mean(score_all(trained.model, seen, pad)))
    judged = _held_out(held_out, encoder)[:CALIBRATED_ON]
    raw = score_all(trained.model, [answer for _, answers in judged for answer in answers], pad)
    differences = [a - b for a, b in zip(raw[::2], raw[1::2], strict=True)]
    temperature = fit_temperature(differences)
    honest = cross_fitted(differences, [repr(row.prompt) for row, _ in judged])
    found = metrics_of(evaluate_margins(np.array(honest)), "held_out")
    trained.metrics |= {name: float(v) for name, v in found.items() if v is not None}
    trained.metrics |= {"temperature": temperature, "center": centre}
    trained.files = {
        DESCRIPTION_FILE: json.dumps(
            {
                "kind": "neural",
                "base_model": plan.base_model.rstrip("/").rpartition("/")[2],
                "base_digest": digest_model(plan.base_model),
                "temperature": temperature,
                "center": centre,
                "max_length": encoder.limit,
                "probe": _probe(encoder, trained.model),
            },
            indent=2,
        ),
        JUDGED_FILE: json.dumps(
            {row.feedback_id: d for (row, _), d in zip(judged, honest, strict=True)}
        ),
    }
    calibrated = [(score - centre) / temperature for score in raw]
    trained.parts = _parts(judged, calibrated, honest)


def _probe(encoder: Encoder, model: Any) -> float | None:
    """What the head says of a known text: whoever opens the model elsewhere compares."""
    prompt, answer = PROBE
    try:
        probe = encoder.encode(list(prompt), Answer(answer, True))
    except Skip:
        return None
    return score_all(model, [probe], encoder.tokenizer.pad_token_id)[0]


def _held_out(held_out: Sequence[PairRow], encoder: Encoder) -> list[Usable]:
    """Held-out pairs in which people saw a difference; but not what held-out people say of prompts
    that the model has seen.
    """
    ranked = [r for r in held_out if r.side != "rater" and not r.tie and r.margin > 0]
    try:
        return select(ranked, encoder, both_answers, _unusable)[0]
    except BadData:
        return []


def _parts(judged: Sequence[Usable], scored: Sequence[float], honest: list[float]) -> list[Part]:
    if not judged:
        return [
            Heading("Calibration"),
            Text(
                "No pairs of held-out prompts: the temperature is 1, and nothing says whether it "
                "is right."
            ),
        ]
    rows = [
        (row.prompt[-1]["content"], row.chosen, scored[2 * i], row.rejected, scored[2 * i + 1])
        for i, (row, _) in enumerate(judged[:SHOWN])
    ]
    head = ("prompt", "preferred", "its reward", "the other", "its reward")
    return [
        Heading("Calibration"),
        reliability_plot(honest),
        Heading("Ten held-out pairs and their rewards"),
        table(head, rows),
    ]
