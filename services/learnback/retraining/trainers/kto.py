"""Kahneman-Tversky optimisation with TRL: from answers that were liked or disliked, without pairs.

Departs from the paper (Ethayarajh et al. 2024, arXiv:2402.01306) in three ways: rows have weights;
the reference is always the base model, also when an adapter is continued; and each prompt's foreign
answer, by which the distance from the reference is estimated, is that of the next row of another
prompt, mostly in the same batch, so that the last batch may be of any size. Rows are shuffled once,
by the seed.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import set_seed
from trl import KTOConfig, KTOTrainer

from learnback.retraining.plan import KtoHyperparameters, RunPlan
from learnback.retraining.trainers.base import (
    BadData,
    Encoder,
    Fitting,
    OwnRows,
    ProgressReport,
    Rows,
    StopRequest,
    Trained,
    arguments,
    check_stop,
    steps_of,
)
from learnback.retraining.trainers.dpo import drop_reference_adapter
from learnback.retraining.trainers.encoding import (
    Answer,
    Encoded,
    Skipped,
    Usable,
    column,
    padded,
    select,
)
from learnback.retraining.trainers.likelihood import completion_log_probabilities
from learnback.retraining.trainers.loading import (
    load_model,
    load_reference_copy,
    load_tokenizer,
    reference,
)
from learnback.retraining.trainers.losses import balancing_weights, label_losses
from learnback.retraining.trainers.rows import LabelRow

METRICS = {
    "loss": "loss",
    "kl": "kl",
    "rewards/accuracies": "reward_accuracy",
    "rewards/chosen": "chosen_reward",
    "rewards/rejected": "rejected_reward",
    "logps/chosen": "chosen_log_probability",
    "logps/rejected": "rejected_log_probability",
    "lengths/answers": "answer_tokens",
}


class _Trainer(OwnRows, KTOTrainer):  # type: ignore[misc]
    """TRL's trainer with a loss that weighs rows and computes no logits of prompts."""

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """The loss of one batch of labels: ()."""
        own, foreign = _halves(inputs)
        trained, mask = completion_log_probabilities(model, own)
        plain = self.accelerator.unwrap_model(model)
        with torch.no_grad():
            moved, _ = completion_log_probabilities(plain, foreign)
            with reference(plain, self.ref_model) as base:
                untrained, _ = completion_log_probabilities(base, own)
                unmoved, _ = completion_log_probabilities(base, foreign)
        ratio = (trained - untrained).sum(1)  # (rows,)
        kl = self.mean_over_processes((moved - unmoved).sum(1).mean()).clamp(min=0)
        label, weight = inputs["label"].bool(), inputs["weight"]
        losses = label_losses(
            ratio, kl, label, self.beta, self.desirable_weight, self.undesirable_weight
        )
        log_probability, reward = trained.sum(1), self.beta * ratio
        self.watch(
            {
                "kl": kl.reshape(1),
                "rewards/accuracies": ((ratio > kl) == label).float(),
                "rewards/chosen": reward[label],
                "rewards/rejected": reward[~label],
                "logps/chosen": log_probability[label],
                "logps/rejected": log_probability[~label],
                "lengths/answers": mask.sum(1).float(),
            }
        )
        return (weight * losses).sum() / self.mean_over_processes(weight.sum())


def train(
    plan: RunPlan,
    rows: Rows[LabelRow],
    directory: Path,
    report: ProgressReport,
    stop: StopRequest,
) -> Trained:
    """Train until the plan's last step, from the newest whole checkpoint in ``directory`` if there
    is one.

    Raises BadData if no row can be used or all are of one kind, Diverged if the loss is no number,
    Interrupted after SIGTERM (with a checkpoint).
    """
    set_seed(plan.seed)
    encoder = Encoder.of(plan, load_tokenizer(plan.base_model))
    usable, skipped = usable_rows(rows.train, encoder)
    random.Random(plan.seed).shuffle(usable)  # TRL goes through them in order
    check_stop(stop)
    trainer = make_trainer(plan, directory, encoder, usable)
    fitting = Fitting(
        plan=plan,
        encoder=encoder,
        report=report,
        stop=stop,
        sequences=[answer for row, (answer,) in usable if row.label],
        prompts=[row.prompt for row in rows.held_out or [row for row, _ in usable]],
        rows_used=len(usable),
        skipped=skipped,
    )
    trained = fitting.run(trainer, METRICS, trainer.ref_model)
    trained.metrics |= {
        "desirable_weight": trainer.desirable_weight,
        "undesirable_weight": trainer.undesirable_weight,
    }
    if {"chosen_reward", "rejected_reward"} <= set(trained.metrics):  # few steps may see one kind
        margin = trained.metrics["chosen_reward"] - trained.metrics["rejected_reward"]
        trained.metrics["reward_margin"] = margin
    return trained


def usable_rows(rows: Sequence[LabelRow], encoder: Encoder) -> tuple[list[Usable], Skipped]:
    """The rows that can be trained on, and what was left out. Raises BadData."""
    labels: dict[str, set[bool]] = {}
    for row in rows:
        labels.setdefault(_judged(row), set()).add(row.label)

    def unusable(row: LabelRow) -> str | None:
        if len(labels[_judged(row)]) == 2:
            return "contradicted"
        return None if row.weight > 0 else "no_weight"

    usable, skipped = select(rows, encoder, only_answer, unusable)
    if len({row.label for row, _ in usable}) < 2:
        counts = dict(skipped.counts)
        kind = "liked" if usable[0].row.label else "disliked"
        raise BadData(f"one-sided: all {len(usable)} usable answers were {kind}; skipped {counts}")
    return usable, skipped


def only_answer(row: LabelRow) -> list[Answer]:
    """The one answer of a row."""
    return [Answer(row.completion, row.finished)]


def make_trainer(
    plan: RunPlan, directory: Path, encoder: Encoder, usable: Sequence[Usable]
) -> _Trainer:
    """A trainer that stands before its first step."""
    settings = plan.settings(KtoHyperparameters)
    liked, disliked = _weights(settings, usable)
    own = {"beta": settings.beta, "desirable_weight": liked, "undesirable_weight": disliked}
    trainer = _Trainer(
        model=load_model(plan),
        ref_model=load_reference_copy(plan),
        args=arguments(KTOConfig, plan, directory, steps_of(settings, len(usable)), **own),
        train_dataset=_dataset(usable, encoder.limit),
        data_collator=_Collator(encoder.tokenizer.pad_token_id),
        processing_class=encoder.tokenizer,
    )
    drop_reference_adapter(trainer)
    return trainer


def _weights(settings: KtoHyperparameters, usable: Sequence[Usable]) -> tuple[float, float]:
    liked, disliked = settings.desirable_weight, settings.undesirable_weight
    if liked is not None or disliked is not None:
        return liked or 1.0, disliked or 1.0
    return balancing_weights(
        sum(row.weight for row, _ in usable if row.label),
        sum(row.weight for row, _ in usable if not row.label),
    )


def _judged(row: LabelRow) -> str:
    return repr((row.prompt, row.completion))


def _dataset(usable: Sequence[Usable], limit: int) -> Dataset:
    """Rows with a foreign answer each, cut to the limit: nothing is learned from it."""
    return Dataset.from_list(
        [
            {
                **answer._asdict(),
                "foreign_ids": foreign.answer_ids[: limit - len(answer.prompt_ids)],
                "label": row.label,
                "weight": row.weight,
            }
            for (row, (answer,)), foreign in zip(usable, _foreign(usable), strict=True)
        ]
    )


def _foreign(usable: Sequence[Usable]) -> list[Encoded]:
    """For each row the answer of the next one with another prompt; of the next one if there is
    none.
    """
    prompts = [repr(row.prompt) for row, _ in usable]
    count, different = len(usable), len(set(prompts)) > 1
    found: list[Encoded] = []
    for i, prompt in enumerate(prompts):
        others = ((i + step) % count for step in range(1, count))
        j = next(j for j in others if prompts[j] != prompt) if different else (i + 1) % count
        found.append(usable[j].answers[0])
    return found


class _Collator:
    """Rows with their own answers first, then the same prompts with foreign ones."""

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, examples: list[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        both = [
            Encoded(e["prompt_ids"], e[name])
            for name in ("answer_ids", "foreign_ids")
            for e in examples
        ]
        numbers = {name: column(examples, name) for name in ("label", "weight")}
        return {**padded(both, self.pad_token_id), **numbers}


def _halves(
    inputs: Mapping[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    names = ("input_ids", "attention_mask", "completion_mask")
    own, foreign = zip(*(inputs[name].chunk(2) for name in names), strict=True)
    return dict(zip(names, own, strict=True)), dict(zip(names, foreign, strict=True))
