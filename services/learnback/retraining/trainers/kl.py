"""KL divergence of the policy from the base model: estimates, and the control of its price. Pure.

All estimates are of KL(p_RL || p_PT) on completions that p_RL sampled, in nats. They agree in the
mean and differ in variance: `exact` has the least, `sampled` is the one whose sum is in the reward.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

MAX_ERROR = 0.2
"""Relative error beyond which the controller does not react more strongly (arXiv:1909.08593)."""
STEEPNESS, MAX_PRICE = 3.0, 100.0
"""Of the price beyond the target: the power of how far it is, and how many times beta at most."""


def exact(policy: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:  # (rows, positions)
    """KL of the next-token distributions at each position, from logits (rows, positions, vocab).

    Its sum over a sampled completion estimates the KL of whole completions without bias and with
    less variance than any estimate from the sampled tokens alone (Rao-Blackwell: Amini et al. 2025,
    arXiv:2504.10637).
    """
    log_policy = policy.log_softmax(-1)
    return (log_policy.exp() * (log_policy - reference.log_softmax(-1))).sum(-1)


def sampled(trained: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:  # (rows, positions)
    """log(p_RL / p_PT) of each sampled token: unbiased, may be negative (k1 in Schulman,
    "Approximating KL divergence", joschu.net/blog/kl-approx.html).

    Both are log-probabilities of the sampled tokens, (rows, positions).
    """
    return trained - reference


def low_variance(
    trained: torch.Tensor, reference: torch.Tensor
) -> torch.Tensor:  # (rows, positions)
    """(r - 1) - log r with r = p_PT / p_RL of each sampled token: unbiased, never negative (k3
    ibid.).
    """
    log_ratio = reference - trained
    return log_ratio.exp() - 1 - log_ratio


def next_beta(beta: float, measured: float, target: float, gain: float, floor: float) -> float:
    """The price of a nat at the target, so that the KL of an answer comes to ``target``.

    Proportional in log space (Ziegler et al. 2019, arXiv:1909.08593, sec. 2.2): beta * (1 + gain *
    clip((KL - target) / target, -0.2, 0.2)). They use a gain of 0.1 and some 100,000 steps; shorter
    runs need a larger one. Never below ``floor``.
    """
    error = (measured - target) / target
    return max(floor, beta * (1 + gain * min(max(error, -MAX_ERROR), MAX_ERROR)))


def price(beta: float, seen: Sequence[float], target: float | None) -> float:
    """What a nat costs in the next step, after steps with these KLs: beyond the target more and
    more, at once, and no longer than until it is back.

    A policy can go from a third of the target to three times that in a few steps, in which
    `next_beta` alone has done next to nothing.
    """
    if target is None or not seen:
        return beta
    beyond = max(1.0, seen[-1] / target)
    return float(beta * min(beyond**STEEPNESS, MAX_PRICE))


def floor_of(seen: Iterable[float], target: float, start: float) -> float:
    """Below what beta may not fall, after steps with these KLs: ``start`` until one has come to
    the target.

    Every run begins at a KL of 0. Cheaper and cheaper steps until it has reached the target would
    carry it far beyond.
    """
    return 0.0 if any(divergence >= target for divergence in seen) else start
