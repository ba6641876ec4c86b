"""Direct preference optimisation of a LoRA adapter with TRL, plus a supervised term on the chosen
answers.

Departs from plain DPO (arXiv:2305.18290) in three ways: the supervised term; the reference is
always the base model, also when an adapter is continued; and an answer that was cut off by its
token limit is not taught to end there.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model, load_peft_weights, set_peft_model_state_dict
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
from trl import DPOConfig, DPOTrainer

from learnback.retraining.plan import CHECKPOINT_DIRECTORY, DpoHyperparameters, RunPlan
from learnback.retraining.trainers.base import (
    BadData,
    Interrupted,
    JobCallback,
    ProgressReport,
    Row,
    StopRequest,
    Trained,
    check_stop,
    distance_from_reference,
    mean_of_last_quarter,
    newest_checkpoint,
    precision,
)

MEASURED_ROWS = 32  # answers on which the distance is measured, about 1,000 tokens
METRICS = {
    "loss": "loss",
    "rewards/accuracies": "reward_accuracy",
    "rewards/margins": "reward_margin",
    "logps/chosen": "chosen_log_probability",
    "logps/rejected": "rejected_log_probability",
}


class _Trainer(DPOTrainer):  # type: ignore[misc]
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
        with torch.no_grad(), self.accelerator.unwrap_model(model).disable_adapter():
            reference, _ = completion_log_probabilities(model, inputs)
        loss, metrics = preference_loss(
            trained,
            reference,
            mask,
            beta=self.beta,
            sft_weight=self.loss_weights[1] if len(self.loss_types) > 1 else 0.0,
            label_smoothing=self.label_smoothing,
        )
        for name, value in metrics.items():
            self._metrics["train"][name].append(value)
        return loss

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write none: it names paths of this machine, and only the adapter is published."""


def train(
    plan: RunPlan, rows: list[Row], directory: Path, report: ProgressReport, stop: StopRequest
) -> Trained:
    """Train until the plan's last step, from the newest whole checkpoint in ``directory`` if there
    is one.

    Raises BadData if no row can be used, Diverged if the loss is no number, Interrupted after
    SIGTERM (with a checkpoint).
    """
    settings = plan.hyperparameters
    set_seed(plan.seed)
    tokenizer = _load_tokenizer(plan.base_model)
    usable, skipped = select_rows(rows, tokenizer, settings.max_length)
    if not usable:
        raise BadData(
            f"no row can be trained on: {len(rows)} in the dataset, skipped {dict(skipped)}"
        )
    max_steps = steps_of(settings, len(usable))
    check_stop(stop)
    model = _load_model(plan)
    check_stop(stop)
    callback = JobCallback(report, stop)
    trainer = _make_trainer(plan, directory, model, tokenizer, usable, max_steps)
    trainer.add_callback(callback)
    resumed_from = _fit(trainer, directory / CHECKPOINT_DIRECTORY, max_steps, stop)
    report.update(state="measuring", step=max_steps, max_steps=max_steps, eta_seconds=None)
    distance = distance_from_reference(
        trainer.model, _sequences(trainer.train_dataset, plan.seed), tokenizer.pad_token_id
    )
    return Trained(
        model=trainer.accelerator.unwrap_model(trainer.model),
        steps=max_steps,
        resumed_from_step=resumed_from,
        rows_used=len(usable),
        rows_skipped=dict(skipped),
        metrics=mean_of_last_quarter(trainer.state.log_history, METRICS),
        distance_from_reference=distance,
    )


def completion_log_probabilities(
    model: Any, inputs: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of every completion token, and which they are: both (2 * pairs,
    positions), 0 elsewhere.
    """
    ids, mask = inputs["input_ids"], inputs["completion_mask"].bool()  # (2 * pairs, seq)
    first = max(
        int(mask.any(dim=0).int().argmax()), 1
    )  # no row's completion starts before this position
    kept = torch.arange(
        first - 1, ids.shape[1] - 1, device=ids.device
    )  # position t predicts token t + 1
    logits = model(
        input_ids=ids,
        attention_mask=inputs["attention_mask"],
        logits_to_keep=kept,
        use_cache=False,
    ).logits.float()  # (2 * pairs, positions, vocab)
    targets = ids[:, first:].unsqueeze(-1)
    log_probabilities = logits.gather(-1, targets).squeeze(-1) - logits.logsumexp(-1)
    mask = mask[:, first:]
    return log_probabilities * mask, mask


def preference_loss(
    trained: torch.Tensor,
    reference: torch.Tensor,
    mask: torch.Tensor,
    *,
    beta: float,
    sft_weight: float,
    label_smoothing: float,
) -> tuple[torch.Tensor, dict[str, float]]:
    """DPO (arXiv:2305.18290, eq. 7; smoothed as in arXiv:2309.02549, eq. 3) plus the mean NLL of
    the chosen tokens.

    All tensors are (2 * pairs, positions), chosen rows first. Returns the loss, (), and the batch's
    metrics.
    """
    chosen, rejected = trained.sum(1).chunk(2)  # (pairs,)
    reference_chosen, reference_rejected = reference.sum(1).chunk(2)
    reward_chosen = beta * (chosen - reference_chosen)
    reward_rejected = beta * (rejected - reference_rejected)
    margin = reward_chosen - reward_rejected
    preference = -(1 - label_smoothing) * logsigmoid(margin) - label_smoothing * logsigmoid(-margin)
    chosen_tokens = mask.chunk(2)[0].sum().clamp(min=1)
    supervised = -trained.chunk(2)[0].sum() / chosen_tokens
    metrics = {
        "rewards/accuracies": (margin > 0).float().mean().item(),
        "rewards/margins": margin.mean().item(),
        "logps/chosen": chosen.mean().item(),
        "logps/rejected": rejected.mean().item(),
    }
    return preference.mean() + sft_weight * supervised, metrics


def steps_of(settings: DpoHyperparameters, rows: int) -> int:
    """Optimiser steps of a run over ``rows`` pairs."""
    if settings.max_steps is not None:
        return settings.max_steps
    per_epoch = math.ceil(rows / (settings.batch_size * settings.gradient_accumulation))
    return max(1, math.ceil(per_epoch * settings.epochs))


def select_rows(rows: list[Row], tokenizer: Any, max_length: int) -> tuple[list[Row], Counter[str]]:
    """The rows that can be trained on, and how many were left out for which reason; none is
    ever cut.
    """
    usable: list[Row] = []
    skipped: Counter[str] = Counter()
    for row in rows:
        reason = _unusable(row, tokenizer, max_length)
        if reason:
            skipped[reason] += 1
        else:
            usable.append(row)
    return usable, skipped


def _unusable(row: Row, tokenizer: Any, max_length: int) -> str | None:
    if not row.chosen.strip() or not row.rejected.strip():
        return "empty"
    if row.chosen == row.rejected:
        return "identical"
    if not row.margin > 0:
        return "no_margin"
    for answer in (row.chosen, row.rejected):
        text = tokenizer.apply_chat_template(
            [*row.prompt, {"role": "assistant", "content": answer}], tokenize=False
        )
        if len(tokenizer(text, add_special_tokens=False)["input_ids"]) > max_length:
            return "too_long"
    return None


def _load_tokenizer(base_model: str) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(base_model)
    if tokenizer.chat_template is None:
        raise BadData(f"the base model {base_model!r} has no chat template")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _load_model(plan: RunPlan) -> Any:
    settings = plan.hyperparameters
    base = AutoModelForCausalLM.from_pretrained(plan.base_model, dtype=precision())
    if plan.parent_adapter is not None:
        return PeftModel.from_pretrained(base, str(plan.parent_adapter), is_trainable=True)
    return get_peft_model(
        base,
        LoraConfig(
            r=settings.lora_rank,
            lora_alpha=settings.lora_alpha,
            target_modules=list(settings.target_modules),
            layers_to_transform=_layers(base.config.num_hidden_layers, settings.top_layers),
            task_type="CAUSAL_LM",
        ),
    )


def _layers(count: int, share: float) -> list[int] | None:
    """Indices of the upper ``share`` of ``count`` layers; None for all, which fits models of
    every architecture.
    """
    if share == 1:
        return None
    return list(range(count - max(1, round(count * share)), count))


def _make_trainer(
    plan: RunPlan, directory: Path, model: Any, tokenizer: Any, rows: list[Row], max_steps: int
) -> _Trainer:
    trainer = _Trainer(
        model=model,
        args=_arguments(plan, directory, max_steps),
        train_dataset=_dataset(rows),
        processing_class=tokenizer,
    )
    # TRL copies the given adapter to be its reference; ours is the base model, adapter off.
    unwrapped = trainer.accelerator.unwrap_model(trainer.model)
    if "ref" in unwrapped.peft_config:
        unwrapped.delete_adapter("ref")
    trainer.train_dataset = trainer.train_dataset.map(
        _drop_false_ends, fn_kwargs={"end": tokenizer.eos_token_id}
    )
    return trainer


def _arguments(plan: RunPlan, directory: Path, max_steps: int) -> DPOConfig:
    settings = plan.hyperparameters
    on_gpu = torch.cuda.is_available()
    supervised = settings.sft_weight > 0
    return DPOConfig(
        output_dir=str(directory / CHECKPOINT_DIRECTORY),
        loss_type=["sigmoid", "sft"] if supervised else ["sigmoid"],
        loss_weights=[1.0, settings.sft_weight] if supervised else None,
        beta=settings.beta,
        label_smoothing=settings.label_smoothing,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=math.ceil(settings.warmup_fraction * max_steps),
        max_steps=max_steps,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        max_grad_norm=settings.max_grad_norm,
        max_length=None,  # select_rows has left out what is too long
        gradient_checkpointing=settings.gradient_checkpointing,
        bf16=on_gpu,
        use_cpu=not on_gpu,
        seed=plan.seed,
        data_seed=plan.seed,
        save_strategy="steps",
        save_steps=settings.checkpoint_every,
        save_total_limit=2,
        logging_steps=1,
        logging_nan_inf_filter=False,  # a loss that is no number must end the run, not vanish
        report_to=[],
        disable_tqdm=True,
    )


def _dataset(rows: list[Row]) -> Dataset:
    return Dataset.from_list(
        [
            {
                "prompt": row.prompt,
                "chosen": [{"role": "assistant", "content": row.chosen}],
                "rejected": [{"role": "assistant", "content": row.rejected}],
                "chosen_finished": row.chosen_finished,
                "rejected_finished": row.rejected_finished,
            }
            for row in rows
        ]
    )


def _drop_false_ends(example: dict[str, Any], end: int) -> dict[str, Any]:
    """Take the end-of-turn token (and what the template puts after it) off an answer that was
    cut by its token limit.
    """
    changed = {}
    for side in ("chosen", "rejected"):
        ids = example[f"{side}_ids"]
        if not example[f"{side}_finished"] and end in ids:
            ids = ids[: len(ids) - 1 - ids[::-1].index(end)]
        changed[f"{side}_ids"] = ids
    return changed


def _fit(trainer: _Trainer, checkpoints: Path, max_steps: int, stop: StopRequest) -> int:
    """Train to the last step; returns the step it was resumed from. Raises Interrupted after
    SIGTERM.
    """
    newest = newest_checkpoint(checkpoints)
    path, step = newest if newest else (None, 0)
    if (
        path is not None and step >= max_steps
    ):  # trained, but killed before publishing: one step more would be wrong
        set_peft_model_state_dict(trainer.model, load_peft_weights(str(path), device="cpu"))
        trainer.state = trainer.state.load_from_json(str(path / "trainer_state.json"))
        return step
    check_stop(stop)
    trainer.train(resume_from_checkpoint=str(path) if path else None)
    if stop.requested or trainer.state.global_step < max_steps:
        raise Interrupted
    return step


def _sequences(dataset: Dataset, seed: int) -> list[tuple[list[int], int]]:
    chosen = random.Random(seed).sample(range(len(dataset)), min(MEASURED_ROWS, len(dataset)))
    picked = [dataset[i] for i in sorted(chosen)]
    return [(row["prompt_ids"] + row["chosen_ids"], len(row["prompt_ids"])) for row in picked]
