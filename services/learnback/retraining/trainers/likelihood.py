"""Log-probabilities of answers, and how far a policy is from its reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from learnback.retraining.trainers.encoding import Encoded, padded
from learnback.retraining.trainers.failures import Diverged
from learnback.retraining.trainers.loading import reference


def completion_log_probabilities(
    model: Any, inputs: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of every completion token, and which they are: both (rows, positions), 0
    elsewhere.

    No logits are computed for positions that lie in every row's prompt; on a CPU with a vocabulary
    of 49,152 they are half of a step.
    """
    kept, targets, mask = completions(inputs)
    logits = model(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        logits_to_keep=kept,
        use_cache=False,
    ).logits.float()  # (rows, positions, vocab)
    log_probabilities = logits.gather(-1, targets).squeeze(-1) - logits.logsumexp(-1)
    return log_probabilities * mask, mask


def distance_from_reference(
    model: Any,
    sequences: Sequence[Encoded],
    pad_token_id: int,
    *,
    copy: Any | None = None,
    batch_size: int = 4,
) -> float:
    """Mean KL(trained || reference) per completion token, in nats, over the full vocabulary; no
    sampling noise.

    The reference is the base model: the adapter off, or ``copy``. The KL is exact at every position
    that the completions visit (Schulman, "Approximating KL divergence",
    joschu.net/blog/kl-approx.html, calls sampling it the alternative), but the completions are the
    dataset's, not the policy's own, so it understates how far free-running text can drift. Raises
    Diverged if it is no number.
    """
    total, count = 0.0, 0
    was_training = model.training
    model.eval()
    for start in range(0, len(sequences), batch_size):
        inputs = padded(sequences[start : start + batch_size], pad_token_id)
        inputs = {name: tensor.to(model.device) for name, tensor in inputs.items()}
        with torch.no_grad():
            kl, tokens = _summed_kl(model, inputs, copy)
        total, count = total + kl, count + tokens
    model.train(was_training)
    if not math.isfinite(total):
        raise Diverged("the trained probabilities are not finite")
    return total / max(count, 1)


def _summed_kl(model: Any, inputs: dict[str, torch.Tensor], copy: Any | None) -> tuple[float, int]:
    kept, _, mask = completions(inputs)
    shown = {
        "input_ids": inputs["input_ids"],
        "attention_mask": inputs["attention_mask"],
        "logits_to_keep": kept,
        "use_cache": False,
    }
    trained = model(**shown).logits[mask].float().log_softmax(-1)  # (tokens, vocab)
    with reference(model, copy) as base_model:
        base = base_model(**shown).logits[mask].float().log_softmax(-1)
    return float((trained.exp() * (trained - base)).sum()), int(mask.sum())


def completions(
    inputs: dict[str, torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The positions whose logits are needed, (positions,), since position t predicts token t + 1;
    the tokens that they predict, (rows, positions, 1); and which of these are completions.
    """
    ids, mask = inputs["input_ids"], inputs["completion_mask"].bool()  # (rows, seq)
    first = max(int(mask.any(dim=0).int().argmax()), 1)  # no completion starts before it
    kept = torch.arange(first - 1, ids.shape[1] - 1, device=ids.device)
    return kept, ids[:, first:].unsqueeze(-1), mask[:, first:]
