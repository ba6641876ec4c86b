"""The losses of all methods that learn from a dataset: pure functions of log-probabilities and
rewards, each with its source.
"""

from __future__ import annotations

import math

import torch
from torch.nn.functional import logsigmoid


def supervised_loss(log_probabilities: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The weighted sum of the answers' negative log-likelihoods, (); ``log_probabilities`` are
    (rows, positions), 0 outside of answers.
    """
    return -(weight * log_probabilities.sum(1)).sum()


def preference_loss(
    trained: torch.Tensor,
    untrained: torch.Tensor,
    mask: torch.Tensor,
    *,
    kind: str,
    beta: float,
    label_smoothing: float = 0.0,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """DPO (arXiv:2305.18290, eq. 7; smoothed as in Mitchell 2023, "A note on
    DPO with noisy preferences", ericmitchell.ai/cdpo.pdf), or IPO.

    IPO is (h - 1 / (2 beta))^2 with h the log-ratio of the pair (arXiv:2310.12036, eq. 17), here
    each answer's mean over its tokens, as its authors ran it and TRL has it: of a sum, a long
    answer would reach the target by a trifle per token. All tensors are (2 * pairs, positions),
    chosen rows first. Returns the loss, (), and the metrics of each pair.
    """
    chosen, rejected = trained.sum(1).chunk(2)  # (pairs,)
    ratio_chosen, ratio_rejected = (trained - untrained).sum(1).chunk(2)
    margin = beta * (ratio_chosen - ratio_rejected)
    lengths = mask.sum(1).clamp(min=1)
    if kind == "ipo":
        mean_chosen, mean_rejected = ((trained - untrained).sum(1) / lengths).chunk(2)
        losses = (mean_chosen - mean_rejected - 1 / (2 * beta)) ** 2
    else:
        right, wrong = logsigmoid(margin), logsigmoid(-margin)
        losses = -(1 - label_smoothing) * right - label_smoothing * wrong
    tokens_chosen, tokens_rejected = lengths.float().chunk(2)
    metrics = {
        "rewards/accuracies": (margin > 0).float(),
        "rewards/margins": margin,
        "logps/chosen": chosen,
        "logps/rejected": rejected,
        "lengths/chosen": tokens_chosen,
        "lengths/rejected": tokens_rejected,
    }
    return losses.mean(), metrics


def label_losses(
    ratio: torch.Tensor,
    kl: torch.Tensor,
    label: torch.Tensor,
    beta: float,
    desirable_weight: float,
    undesirable_weight: float,
) -> torch.Tensor:
    """The loss of each row, (rows,): ``weight * (1 - sigmoid(+-beta * (ratio - kl)))``
    (arXiv:2402.01306, sec. 4.1).

    ``ratio`` is log p_trained(answer) - log p_reference(answer), (rows,); ``kl`` the estimated
    distance from the reference, () and never differentiated.
    """
    gain = beta * (ratio - kl)
    liked = desirable_weight * (1 - torch.sigmoid(gain))
    disliked = undesirable_weight * (1 - torch.sigmoid(-gain))
    return torch.where(label, liked, disliked)


def balancing_weights(desirable: float, undesirable: float) -> tuple[float, float]:
    """KTO's weights of liked and disliked answers, from how many there are of each.

    The rarer kind is weighted up until both count the same in all: the lower end of the range that
    the paper recommends (arXiv:2402.01306, sec. 4.2: liked to disliked in [1, 4/3]).
    """
    return max(1.0, undesirable / desirable), max(1.0, desirable / undesirable)


def pair_losses(
    difference: torch.Tensor, strength: torch.Tensor, tie: torch.Tensor, threshold: float
) -> torch.Tensor:
    """The negative log-likelihood of each comparison, (pairs,), in nats.

    ``difference`` is r(chosen) - r(rejected), ``strength`` in [0, 1], ``tie`` says that people saw
    none. A tie's likelihood is what two wins by ``threshold`` leave over: sigmoid(t - d) *
    sigmoid(t + d) * (1 - exp(-2 t)).
    """
    won = -logsigmoid(difference - threshold * strength)
    left_over = math.log(-math.expm1(-2 * threshold))
    tied = -logsigmoid(threshold - difference) - logsigmoid(threshold + difference) - left_over
    return torch.where(tie, tied, won)
