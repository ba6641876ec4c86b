"""The policy gradient of RLOO: rewards to advantages to a loss. Pure; torch only.

REINFORCE with a leave-one-out baseline (Kool et al. 2019, "Buy 4 REINFORCE samples, get a baseline
for free!"; for language models Ahmadian et al. 2024, arXiv:2402.14740): each of k answers to a
prompt is judged against the mean of the other k - 1. The baseline does not depend on the answer
that it judges, so the gradient stays unbiased.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

MAX_RATIO = 2.0
"""Where a token's ratio of trainer to sampler probability is cut: see `truncated_ratio`."""


class Mismatch(NamedTuple):
    """How far the trainer's probabilities are from those that sampled, over some tokens."""

    mean: float
    """Mean absolute difference of the log-probabilities, in nats per token."""
    largest: float
    """The largest such difference."""
    truncated: float
    """Share of tokens whose ratio was cut."""


def penalised(
    scores: torch.Tensor, log_ratios: torch.Tensor, beta: float
) -> torch.Tensor:  # (prompts, samples)
    """R(s) - beta * log(p_RL(s) / p_PT(s)), per answer (Ziegler et al. 2019, arXiv:1909.08593, eq.
    2).

    ``scores`` and the summed ``log_ratios`` are (prompts, samples).
    """
    return scores - beta * log_ratios


def leave_one_out(
    rewards: torch.Tensor, judged: torch.Tensor
) -> torch.Tensor:  # (prompts, samples)
    """A_i = R_i - mean of the other judged answers to its prompt (arXiv:2402.14740).

    ``rewards`` and ``judged`` are (prompts, samples). An answer that nobody could judge gets 0 and
    is in nobody's baseline; so does one that has nothing to be compared with.
    """
    known = torch.where(judged, rewards, torch.zeros_like(rewards))
    others = judged.sum(dim=1, keepdim=True) - 1  # (prompts, 1)
    baseline = (known.sum(dim=1, keepdim=True) - known) / others.clamp(min=1)
    return torch.where(judged & (others > 0), known - baseline, torch.zeros_like(rewards))


def truncated_ratio(
    trained: torch.Tensor, sampled: torch.Tensor, limit: float = MAX_RATIO
) -> torch.Tensor:  # (rows, positions)
    """min(p_trainer / p_sampler, limit) of each token, without a gradient.

    Truncated importance sampling (Ionides 2008; for an engine that samples for a trainer: Yao et
    al. 2025, fengyao.notion.site/off-policy-rl): corrects what another engine, or weights a step
    old, sampled; the cut bounds the variance for a little bias. Both are log-probabilities, (rows,
    positions).
    """
    return (trained.detach() - sampled).exp().clamp(max=limit)


def policy_gradient_loss(
    trained: torch.Tensor, ratios: torch.Tensor, advantages: torch.Tensor
) -> torch.Tensor:  # ()
    """-mean over answers of A * sum over tokens of ratio * log p: its gradient is REINFORCE's.

    ``trained`` and ``ratios`` are (rows, positions), with ``trained`` 0 where no token of a
    completion stands; ``advantages`` is (rows,). Summed over tokens, not averaged: an answer is one
    action, whose probability is the product of its tokens' (arXiv:2402.14740).
    """
    return -(advantages * (ratios * trained).sum(dim=1)).mean()


def mismatch(trained: torch.Tensor, sampled: torch.Tensor, limit: float = MAX_RATIO) -> Mismatch:
    """Compare the trainer's and the sampler's log-probabilities of some tokens: both (tokens,)."""
    gaps = trained.detach() - sampled
    if gaps.numel() == 0:
        return Mismatch(0.0, 0.0, 0.0)
    cut = (gaps.exp() > limit).float().mean()
    return Mismatch(gaps.abs().mean().item(), gaps.abs().max().item(), cut.item())
