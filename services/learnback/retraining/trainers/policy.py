"""The RLOO gradient of one step's rollouts, with the account of what they were."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from learnback.retraining.trainers import kl, processes
from learnback.retraining.trainers.advantages import (
    leave_one_out,
    mismatch,
    penalised,
    policy_gradient_loss,
    truncated_ratio,
)
from learnback.retraining.trainers.encoding import Encoded, padded
from learnback.retraining.trainers.likelihood import completions
from learnback.retraining.trainers.loading import reference
from learnback.retraining.trainers.rollouts import Rollout

Group = Sequence[Rollout]
"""The answers to one prompt."""


@dataclass
class Account:
    """Sums over the answers of a step."""

    sums: dict[str, float] = field(default_factory=dict)
    largest_gap: float = 0.0

    def add(self, **values: float) -> None:
        """Add to the sums."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def of_all(self, device: torch.device) -> Account:
        """The same over the answers of all processes."""
        gap = processes.largest(self.largest_gap, device)
        return Account(processes.totals(self.sums, device), gap)

    def metrics(self) -> dict[str, float]:
        """Means, by the names of `RunResult.metrics`; per answer unless they say otherwise."""
        sums, answers = self.sums, self.sums["answers"]
        judged = sums["judged"]
        found = {
            "loss": sums["loss"],
            "kl": sums["kl"] / answers,
            "kl_sampled": sums["kl_sampled"] / answers,
            "answer_tokens": sums["tokens"] / answers,
            "finished": sums["finished"] / answers,
            "unjudged": 1 - judged / answers,
            "mismatch": sums["gap"] / sums["tokens"],  # nats per token
            "mismatch_largest": self.largest_gap,
            "truncated": sums["cut"] / sums["tokens"],
        }
        return found | ({"reward": sums["reward"] / judged} if judged else {})


def add_gradient(
    model: Any,
    copy: Any | None,
    groups: Sequence[Group],
    scores: torch.Tensor,
    precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
    *,
    beta: float,
    pad: int,
    batch_size: int,
    exact_kl: bool,
) -> Account:
    """Add the gradient of the loss of ``groups``, which are all or this process's share, to
    ``.grad``: the gradients of all processes add up to that of all answers.

    ``groups`` are (prompts, samples) rollouts and ``scores`` their rewards in the same shape, NaN
    where an answer could not be judged. A prompt's answers stay in one batch, of about
    ``batch_size`` answers, so one forward pass gives probabilities, advantages and gradient.
    ``copy`` is the base model beside full weights; forward passes run within ``precision``.
    """
    account = Account()
    together = max(1, batch_size // len(groups[0]))
    for start in range(0, len(groups), together):
        part = groups[start : start + together]
        given = scores[start : start + together].to(model.device)  # (prompts, samples)
        with precision():
            loss = _loss(model, copy, part, given, beta, pad, exact_kl, account)
        share = len(part) / (len(groups) * processes.count())
        (loss * share).backward()
        account.add(loss=loss.item() * share)
    return account


def _loss(
    model: Any,
    copy: Any | None,
    groups: Sequence[Group],
    scores: torch.Tensor,  # (prompts, samples)
    beta: float,
    pad: int,
    exact_kl: bool,
    account: Account,
) -> torch.Tensor:
    rollouts = [rollout for group in groups for rollout in group]
    inputs = padded([Encoded(r.prompt, r.completion) for r in rollouts], pad)
    inputs = {name: tensor.to(model.device) for name, tensor in inputs.items()}
    sampled = torch.tensor(
        [chance for r in rollouts for chance in r.log_probabilities], device=model.device
    )  # (tokens,)
    with torch.no_grad(), reference(model, copy) as base:
        base_logits, based, _ = score_tokens(base, inputs)
    logits, trained, mask = score_tokens(model, inputs)  # (tokens, vocab), (tokens,), (rows, pos)
    with torch.no_grad():
        log_ratios = spread(kl.sampled(trained, based), mask).sum(1)  # (rows,)
        exact = kl.exact(logits, base_logits) if exact_kl else kl.low_variance(trained, based)
        rewards = penalised(scores, log_ratios.view_as(scores), beta)
        advantages = leave_one_out(rewards, ~scores.isnan()).flatten()
        ratios = truncated_ratio(trained, sampled)
    gap = mismatch(trained, sampled)
    account.largest_gap = max(account.largest_gap, gap.largest)
    account.add(
        answers=len(rollouts),
        judged=int((~scores.isnan()).sum()),
        finished=sum(r.finished for r in rollouts),
        tokens=len(trained),
        reward=scores.nansum().item(),
        kl=exact.sum().item(),
        kl_sampled=log_ratios.sum().item(),
        gap=gap.mean * len(trained),
        cut=gap.truncated * len(trained),
    )
    return policy_gradient_loss(spread(trained, mask), spread(ratios, mask), advantages)


def score_tokens(
    model: Any, inputs: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits before each completion token, (tokens, vocab), the log-probability of that token,
    (tokens,), and where they stand, (rows, positions), row by row.
    """
    kept, targets, mask = completions(inputs)
    output = model(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        logits_to_keep=kept,
        use_cache=False,
    )
    logits = output.logits[mask].float()
    chosen = logits.gather(-1, targets[mask]).squeeze(-1)
    return logits, chosen - logits.logsumexp(-1), mask


def spread(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(tokens,) values at their places in (rows, positions), 0 elsewhere."""
    return torch.zeros(mask.shape, dtype=values.dtype, device=values.device).masked_scatter(
        mask, values
    )


def trainable(model: Any) -> dict[str, torch.nn.Parameter]:
    """The weights that learn, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
