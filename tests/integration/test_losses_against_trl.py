"""Every method's loss is the one that TRL's own trainer computes on the same rows, and so is its
gradient; and what is measured beside it is what its definition says.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
from tests.tiny_model import tiny_model

from learnback.retraining.plan import (
    HYPERPARAMETERS,
    Method,
    RunPlan,
    read_plan,
)

__all__ = ["tiny_model"]

pytestmark = [pytest.mark.timeout(180), pytest.mark.xdist_group("losses")]

TRAINED = "lora_B", "score"
"""Weights that start at 0."""


def a_plan(folder: Path, base_model: Path, method: Method, rows: int, **changes: Any) -> RunPlan:
    """A step of so many rows of random words: prompts and answers of 20 to 60 of them."""
    from bench.training.variants import write_run

    write_run(folder / "run", str(base_model), method, steps=1, batch=rows)
    plan = read_plan(folder / "run")
    settings = plan.hyperparameters.model_dump() | {"lora_rank": 4} | changes
    own = HYPERPARAMETERS[method].model_validate(settings)
    return plan.model_copy(update={"hyperparameters": own})


def our_trainer(plan: RunPlan) -> Any:
    """As the job makes it, of all rows in their order."""
    from learnback.retraining.trainers import rows
    from learnback.retraining.trainers.base import StopRequest
    from learnback.retraining.trainers.encoding import Encoder, select
    from learnback.retraining.trainers.loading import load_tokenizer

    module = importlib.import_module(f"learnback.retraining.trainers.{plan.method}")
    answers = getattr(module, "only_answer", None) or module.both_answers
    encoder = Encoder.of(plan, load_tokenizer(plan.base_model))
    found = rows.load(plan.dataset, plan.method).train
    usable, _ = select(found, encoder, answers, lambda row: None)
    stop = [StopRequest()] if plan.method == "dpo" else []
    return module.make_trainer(plan, plan.dataset, encoder, usable, *stop)


def trl_trainer(plan: RunPlan) -> Any:
    """As TRL's documentation shows it, on the same rows."""
    from bench.training.variants import BARE, conversations
    from transformers import AutoTokenizer

    rows, settings = conversations(plan.dataset), plan.hyperparameters
    if plan.method == "reward_model":
        rows = rows.add_column("margin", [settings.margin] * len(rows))  # type: ignore[attr-defined]
    tokenizer = AutoTokenizer.from_pretrained(plan.base_model)
    return BARE[plan.method](plan, settings, tokenizer, rows)


def moved(trainer: Any) -> dict[str, Any]:
    """The weights that learn, by name, away from where they start."""
    import torch

    torch.manual_seed(5)
    found = {n: p for n, p in trainer.model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for name, weight in found.items():
            if any(word in name for word in TRAINED):
                weight.normal_(std=0.1)
    return found


def both_moved(ours: Any, theirs: Any) -> dict[str, tuple[Any, Any]]:
    """The same of two trainers, which are alike then."""
    import torch

    there = dict(theirs.model.named_parameters())
    found = {name: (weight, there[name]) for name, weight in moved(ours).items()}
    with torch.no_grad():
        for own, other in found.values():
            other.copy_(own)
    return found


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("sft", {}),
        ("dpo", {}),
        ("dpo", {"loss": "ipo", "sft_weight": 0.0}),
        ("kto", {}),
        ("reward_model", {}),
    ],
)
def test_loss_and_gradient_of_a_batch_are_those_of_trl(
    method: Method, changes: dict[str, Any], tmp_path: Path, tiny_model: Path
) -> None:
    """Rows whose prompts and answers have different lengths; two of them where TRL pairs each
    prompt with another one's answer, since there it has no choice.
    """
    plan = a_plan(tmp_path, tiny_model, method, 2 if method == "kto" else 4, **changes)
    ours, theirs = our_trainer(plan), trl_trainer(plan)
    weights = both_moved(ours, theirs)
    losses = []
    for trainer in (ours, theirs):
        batch = next(iter(trainer.get_train_dataloader()))
        loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
        losses.append(loss.item())

    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for name, (own, other) in weights.items():
        assert (own.grad - other.grad).norm() < 1e-3 * other.grad.norm(), name
    if method == "kto":
        kl = ours._metrics["train"]["kl"][-1]
        assert kl == pytest.approx(theirs._metrics["train"]["kl"][-1], rel=1e-3)
        assert kl > 0


def log_chances(model: Any, prompt: list[int], answer: list[int]) -> Any:
    """Of every token before each token of an answer, (tokens, vocab): one text alone, unpadded."""
    import torch

    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + answer])).logits[0]
    return logits[len(prompt) - 1 : -1].float().log_softmax(-1)


def log_chance(model: Any, prompt: list[int], answer: list[int]) -> float:
    found = log_chances(model, prompt, answer)
    return sum(float(found[i, token]) for i, token in enumerate(answer))


def test_the_kl_of_kto_is_that_of_prompts_with_the_answers_of_others(
    tmp_path: Path, tiny_model: Path
) -> None:
    """A mean over the batch, and never below 0 (arXiv:2402.01306, sec. 4.1)."""
    trainer = our_trainer(a_plan(tmp_path, tiny_model, "kto", rows=5))
    moved(trainer)
    rows = list(trainer.train_dataset)
    others = [row["answer_ids"] for row in [*rows[1:], rows[0]]]
    pairs = [(row["prompt_ids"], other) for row, other in zip(rows, others, strict=True)]
    trained = [log_chance(trainer.model, *pair) for pair in pairs]
    with trainer.model.disable_adapter():
        based = [log_chance(trainer.model, *pair) for pair in pairs]
    expected = sum(a - b for a, b in zip(trained, based, strict=True)) / len(rows)

    trainer.compute_loss(trainer.model, next(iter(trainer.get_train_dataloader())))

    assert expected > 0.1
    assert trainer._metrics["train"]["kl"] == [pytest.approx(expected, rel=1e-3)]


def test_the_distance_from_the_reference_is_the_exact_kl_of_a_token(
    tmp_path: Path, tiny_model: Path
) -> None:
    """Over answers of different lengths, however they share batches."""
    from learnback.retraining.trainers.encoding import Encoded
    from learnback.retraining.trainers.likelihood import distance_from_reference

    trainer = our_trainer(a_plan(tmp_path, tiny_model, "sft", rows=5))
    moved(trainer)
    model = trainer.model.eval()
    answers = [Encoded(row["prompt_ids"], row["answer_ids"]) for row in trainer.train_dataset]
    total, tokens = 0.0, 0
    for answer in answers:
        trained = log_chances(model, *answer)
        with model.disable_adapter():
            based = log_chances(model, *answer)
        total += float((trained.exp() * (trained - based)).sum())
        tokens += len(answer.answer_ids)

    assert len({len(answer.answer_ids) for answer in answers}) > 2
    for size in (1, 4):
        found = distance_from_reference(model, answers, 0, batch_size=size)
        assert found == pytest.approx(total / tokens, rel=1e-3)
    assert total / tokens > 0.01
