"""Direct preference optimisation with TRL, plus a supervised term on the chosen answers; or IPO.

Departs from plain DPO (arXiv:2305.18290) in three ways: the supervised term; the reference is
always the base model, also when an adapter is continued; and an answer that was cut off by its
token limit is not taught to end there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import set_seed
from trl import DPOConfig, DPOTrainer

from learnback.retraining.plan import DpoHyperparameters, RunPlan
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
from learnback.retraining.trainers.encoding import Answer, Usable, select
from learnback.retraining.trainers.likelihood import completion_log_probabilities
from learnback.retraining.trainers.loading import (
    load_model,
    load_reference_copy,
    load_tokenizer,
    reference,
)
from learnback.retraining.trainers.losses import preference_loss
from learnback.retraining.trainers.rows import PairRow

METRICS = {
    "loss": "loss",
    "rewards/accuracies": "reward_accuracy",
    "rewards/margins": "reward_margin",
    "logps/chosen": "chosen_log_probability",
    "logps/rejected": "rejected_log_probability",
    "lengths/chosen": "chosen_tokens",
    "lengths/rejected": "rejected_tokens",
}


class _Trainer(OwnRows, DPOTrainer):  # type: ignore[misc]
    """TRL's trainer with a leaner loss.

    TRL computes logits for every position, prompts too, and entropy and more of each; on a CPU with
    a vocabulary of 49,152 that is half of a step (6.8 of 13.6 s).
    """

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """The loss of one batch of pairs: () in nats. The first half of the rows is chosen, the
        second rejected.
        """
        trained, mask = completion_log_probabilities(model, inputs)
        plain = self.accelerator.unwrap_model(model)
        with torch.no_grad(), reference(plain, self.ref_model) as base:
            untrained, _ = completion_log_probabilities(base, inputs)
        preference, metrics = preference_loss(
            trained,
            untrained,
            mask,
            kind=self.loss_types[0],
            beta=self.beta,
            label_smoothing=self.label_smoothing,
        )
        self.watch(metrics)
        if len(self.loss_types) == 1:
            return preference
        tokens = self.mean_over_processes(mask.chunk(2)[0].sum().float().clamp(min=1))
        supervised = -trained.chunk(2)[0].sum() / tokens  # nats per chosen token
        return preference + self.loss_weights[1] * supervised


def train(
    plan: RunPlan,
    rows: Rows[PairRow],
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
    usable, skipped = select(rows.train, encoder, both_answers, _unusable)
    trainer = make_trainer(plan, directory, encoder, usable, stop)
    fitting = Fitting(
        plan=plan,
        encoder=encoder,
        report=report,
        stop=stop,
        sequences=[chosen for _, (chosen, _) in usable],
        prompts=[row.prompt for row in rows.held_out or [row for row, _ in usable]],
        rows_used=len(usable),
        skipped=skipped,
    )
    return fitting.run(trainer, METRICS, trainer.ref_model)


def both_answers(row: PairRow) -> list[Answer]:
    """The chosen answer and the rejected one."""
    return [Answer(row.chosen, row.chosen_finished), Answer(row.rejected, row.rejected_finished)]


def _unusable(row: PairRow) -> str | None:
    if row.chosen == row.rejected:
        return "identical"
    return "tie" if row.tie else "no_margin" if not row.margin > 0 else None


def make_trainer(
    plan: RunPlan, directory: Path, encoder: Encoder, usable: Sequence[Usable], stop: StopRequest
) -> _Trainer:
    """A trainer that stands before its first step. Raises Interrupted after SIGTERM."""
    settings = plan.settings(DpoHyperparameters)
    check_stop(stop)
    model, copy = load_model(plan), load_reference_copy(plan)
    check_stop(stop)
    supervised = settings.sft_weight > 0
    own = {
        "loss_type": [settings.loss, "sft"] if supervised else [settings.loss],
        "loss_weights": [1.0, settings.sft_weight] if supervised else None,
        "beta": settings.beta,
        "label_smoothing": settings.label_smoothing,
    }
    trainer = _Trainer(
        model=model,
        ref_model=copy,
        args=arguments(DPOConfig, plan, directory, steps_of(settings, len(usable)), **own),
        train_dataset=_dataset(usable),
        processing_class=encoder.tokenizer,
    )
    drop_reference_adapter(trainer)
    return trainer


def drop_reference_adapter(trainer: Any) -> None:
    """TRL copies the given adapter to be its reference; ours is the base model, adapter off."""
    unwrapped = trainer.accelerator.unwrap_model(trainer.model)
    if "ref" in getattr(unwrapped, "peft_config", {}):
        unwrapped.delete_adapter("ref")


def _dataset(usable: Sequence[Usable]) -> Dataset:
    """Pairs as TRL's collator takes them: one prompt and two answers."""
    return Dataset.from_list([_tokens(*answers) for _, answers in usable])


def _tokens(chosen: Any, rejected: Any) -> dict[str, list[int]]:
    """The prompt of both is as long as they agree on where the answer begins."""
    start = min(len(chosen.prompt_ids), len(rejected.prompt_ids))
    return {
        "prompt_ids": chosen.prompt_ids[:start],
        "chosen_ids": chosen.prompt_ids[start:] + chosen.answer_ids,
        "rejected_ids": rejected.prompt_ids[start:] + rejected.answer_ids,
    }
