"""Supervised fine-tuning on answers that people corrected or rated best, with TRL.

Only answers are learned, never prompts; a row's weight says how much its tokens count; and an
answer that was cut off by its token limit is not taught to end there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import set_seed
from trl import SFTConfig, SFTTrainer

from learnback.retraining.plan import RunPlan, SftHyperparameters
from learnback.retraining.trainers.base import (
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
from learnback.retraining.trainers.encoding import (
    Answer,
    Encoded,
    Usable,
    column,
    padded,
    select,
)
from learnback.retraining.trainers.likelihood import completion_log_probabilities
from learnback.retraining.trainers.loading import load_model, load_reference_copy, load_tokenizer
from learnback.retraining.trainers.losses import supervised_loss
from learnback.retraining.trainers.rows import CompletionRow

METRICS = {
    "loss": "loss",
    "logps/answers": "answer_log_probability",
    "lengths/answers": "answer_tokens",
}


class _Trainer(OwnRows, SFTTrainer):  # type: ignore[misc]
    """TRL's trainer with a loss that weighs rows and computes no logits of prompts."""

    ref_model: Any = None

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """The loss of one batch of answers: () in nats per token."""
        log_probabilities, mask = completion_log_probabilities(model, inputs)
        tokens, weight = mask.sum(1).float(), inputs["weight"]  # (rows,)
        self.watch({"logps/answers": log_probabilities.sum(1), "lengths/answers": tokens})
        norm = self.mean_over_processes((weight * tokens).sum())
        return supervised_loss(log_probabilities, weight) / norm


def train(
    plan: RunPlan,
    rows: Rows[CompletionRow],
    directory: Path,
    report: ProgressReport,
    stop: StopRequest,
) -> Trained:
    """Train until the plan's last step, from the newest whole checkpoint in ``directory`` if there
    is one.

    Raises BadData if no row can be used, Diverged if the loss is no number, Interrupted after
    SIGTERM (with a checkpoint).
    """
    set_seed(plan.seed)
    encoder = Encoder.of(plan, load_tokenizer(plan.base_model))
    usable, skipped = select(rows.train, encoder, only_answer, _unusable)
    check_stop(stop)
    trainer = make_trainer(plan, directory, encoder, usable)
    fitting = Fitting(
        plan=plan,
        encoder=encoder,
        report=report,
        stop=stop,
        sequences=[answer for _, (answer,) in usable],
        prompts=[row.prompt for row in rows.held_out or [row for row, _ in usable]],
        rows_used=len(usable),
        skipped=skipped,
    )
    return fitting.run(trainer, METRICS, trainer.ref_model)


def only_answer(row: CompletionRow) -> list[Answer]:
    """The one answer of a row."""
    return [Answer(row.completion, row.finished)]


def _unusable(row: CompletionRow) -> str | None:
    return None if row.weight > 0 else "no_weight"


def make_trainer(
    plan: RunPlan, directory: Path, encoder: Encoder, usable: Sequence[Usable]
) -> _Trainer:
    """A trainer that stands before its first step."""
    settings = plan.settings(SftHyperparameters)
    trainer = _Trainer(
        model=load_model(plan),
        args=arguments(SFTConfig, plan, directory, steps_of(settings, len(usable))),
        train_dataset=_dataset(usable),
        data_collator=_Collator(encoder.tokenizer.pad_token_id),
        processing_class=encoder.tokenizer,
    )
    copy = load_reference_copy(plan)  # for what is measured; the loss needs none
    trainer.ref_model = copy if copy is None else copy.to(trainer.args.device)
    return trainer


def _dataset(usable: Sequence[Usable]) -> Dataset:
    return Dataset.from_list(
        [{**answer._asdict(), "weight": row.weight} for row, (answer,) in usable]
    )


class _Collator:
    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, examples: list[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        sequences = [Encoded(e["prompt_ids"], e["answer_ids"]) for e in examples]
        return {**padded(sequences, self.pad_token_id), "weight": column(examples, "weight")}
