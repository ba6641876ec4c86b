"""The policy gradient against exact enumeration, and its parts against hand-worked values."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from learnback.retraining.trainers import kl, processes
from learnback.retraining.trainers.advantages import (
    leave_one_out,
    mismatch,
    penalised,
    policy_gradient_loss,
    truncated_ratio,
)
from learnback.retraining.trainers.rollouts import prompts_of_step

LOGITS = [0.3, -0.4]
REFERENCE = [-0.2, 0.5]
REWARDS = [1.7, -0.6]
BETA = 0.35
LENGTH = 2  # tokens of an answer: 4 answers over a vocabulary of two


def answers() -> list[tuple[int, ...]]:
    return list(itertools.product((0, 1), repeat=LENGTH))


def token_log_probabilities(logits: torch.Tensor, answer: tuple[int, ...]) -> torch.Tensor:
    return logits.log_softmax(-1)[list(answer)]  # (positions,): the same die at each position


def reward_of(answer: tuple[int, ...]) -> float:
    return sum(REWARDS[token] for token in answer) + 0.5 * (answer[0] != answer[-1])


def analytic_gradient() -> torch.Tensor:
    """Of E[R] - beta * KL, summed over all answers and differentiated by hand of autograd."""
    logits = torch.tensor(LOGITS, dtype=torch.float64, requires_grad=True)
    reference = torch.tensor(REFERENCE, dtype=torch.float64)
    objective = torch.zeros((), dtype=torch.float64)
    for answer in answers():
        log_p = token_log_probabilities(logits, answer).sum()
        log_ratio = log_p - token_log_probabilities(reference, answer).sum()
        objective = objective + log_p.exp() * (reward_of(answer) - BETA * log_ratio)
    return torch.autograd.grad(objective, logits)[0]


def expected_gradient(samples: int, *, baseline: bool = True, sampler: list[float] | None = None):  # type: ignore[no-untyped-def]
    """The mean of the estimator over every possible draw of `samples` answers."""
    drawn_by = torch.tensor(sampler or LOGITS, dtype=torch.float64)
    reference = torch.tensor(REFERENCE, dtype=torch.float64)
    total = torch.zeros(2, dtype=torch.float64)
    for draw in itertools.product(answers(), repeat=samples):
        logits = torch.tensor(LOGITS, dtype=torch.float64, requires_grad=True)
        trained = torch.stack([token_log_probabilities(logits, a) for a in draw])
        sampled = torch.stack([token_log_probabilities(drawn_by, a) for a in draw])
        base = torch.stack([token_log_probabilities(reference, a) for a in draw])
        scores = torch.tensor([[reward_of(a) for a in draw]], dtype=torch.float64)
        rewards = penalised(scores, (trained.detach() - base).sum(1)[None], BETA)
        judged = torch.ones_like(rewards, dtype=torch.bool)
        advantages = leave_one_out(rewards, judged) if baseline else rewards
        ratios = truncated_ratio(trained, sampled)
        loss = policy_gradient_loss(trained, ratios, advantages[0])
        (gradient,) = torch.autograd.grad(loss, logits)
        total += sampled.sum().exp() * -gradient
    return total


@pytest.mark.parametrize("samples", [2, 3])
def test_the_expected_rloo_gradient_is_that_of_reward_less_beta_kl(samples: int) -> None:
    torch.testing.assert_close(expected_gradient(samples), analytic_gradient())


def test_the_baseline_changes_the_variance_and_not_the_mean() -> None:
    torch.testing.assert_close(expected_gradient(2, baseline=False), analytic_gradient())


def test_a_baseline_that_includes_the_answer_itself_is_biased() -> None:
    """What RLOO is not: the mean of all shrinks the gradient, here by half."""
    shrunk = expected_gradient(2) / 2
    logits = torch.tensor(LOGITS, dtype=torch.float64, requires_grad=True)
    total = torch.zeros(2, dtype=torch.float64)
    reference = torch.tensor(REFERENCE, dtype=torch.float64)
    for draw in itertools.product(answers(), repeat=2):
        trained = torch.stack([token_log_probabilities(logits, a) for a in draw])
        base = torch.stack([token_log_probabilities(reference, a) for a in draw])
        scores = torch.tensor([[reward_of(a) for a in draw]], dtype=torch.float64)
        rewards = penalised(scores, (trained.detach() - base).sum(1)[None], BETA)[0]
        loss = policy_gradient_loss(trained, torch.ones_like(trained), rewards - rewards.mean())
        (gradient,) = torch.autograd.grad(loss, logits)
        total += trained.detach().sum().exp() * -gradient
    torch.testing.assert_close(total, shrunk)
    assert not torch.allclose(total, analytic_gradient())


def test_importance_weights_mend_most_of_what_a_stale_sampler_spoils() -> None:
    """Token-level weights are no exact correction of answers, but they point the right way."""
    stale = [0.1, -0.1]
    right = analytic_gradient()
    mended = expected_gradient(2, sampler=stale)

    assert torch.linalg.norm(mended - right) < 0.35 * torch.linalg.norm(right)
    assert torch.nn.functional.cosine_similarity(mended, right, dim=0) > 0.99


def test_leave_one_out_by_hand() -> None:
    rewards = torch.tensor([[1.0, 2.0, 6.0]])

    found = leave_one_out(rewards, torch.ones(1, 3, dtype=torch.bool))

    torch.testing.assert_close(found, torch.tensor([[1 - 4.0, 2 - 3.5, 6 - 1.5]]))


def test_an_answer_that_nobody_could_judge_teaches_nothing_and_is_in_no_baseline() -> None:
    rewards = torch.tensor([[1.0, math.nan, 3.0], [math.nan, 5.0, math.nan]])
    judged = ~rewards.isnan()

    found = leave_one_out(rewards, judged)

    torch.testing.assert_close(found, torch.tensor([[-2.0, 0.0, 2.0], [0.0, 0.0, 0.0]]))


def test_a_ratio_is_cut_at_two_and_never_raised() -> None:
    trained = torch.tensor([[0.0, -1.0, -3.0]], requires_grad=True)
    sampled = torch.tensor([[-5.0, -1.0, -1.0]])

    ratios = truncated_ratio(trained, sampled)

    torch.testing.assert_close(ratios, torch.tensor([[2.0, 1.0, math.exp(-2)]]))
    assert not ratios.requires_grad


def test_the_mismatch_is_how_far_two_engines_are_apart() -> None:
    found = mismatch(torch.tensor([-1.0, -1.0]), torch.tensor([-1.5, -2.0]))

    assert found.mean == pytest.approx(0.75)
    assert found.largest == pytest.approx(1.0)
    assert found.truncated == pytest.approx(0.5)
    assert mismatch(torch.empty(0), torch.empty(0)).mean == 0.0


@pytest.fixture(scope="module")
def toy() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probabilities of a policy and of its base on a vocabulary of eight, and a sample."""
    dice = torch.Generator().manual_seed(0)
    base = torch.randn(8, generator=dice, dtype=torch.float64).log_softmax(-1)
    policy = (base + 0.7 * torch.randn(8, generator=dice, dtype=torch.float64)).log_softmax(-1)
    tokens = torch.multinomial(policy.exp(), 40_000, replacement=True, generator=dice)
    return policy, base, tokens


def test_the_exact_kl_is_the_sum_over_the_vocabulary(
    toy: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    policy, base, _ = toy
    by_hand = sum(
        math.exp(p) * (p - q) for p, q in zip(policy.tolist(), base.tolist(), strict=True)
    )

    found = kl.exact(policy[None, None], base[None, None])

    assert found.shape == (1, 1)
    assert found.item() == pytest.approx(by_hand)
    assert kl.exact(policy + 3.0, base - 5.0).item() == pytest.approx(by_hand)  # logits will do


def estimates(
    toy: tuple[torch.Tensor, torch.Tensor, torch.Tensor], name: str
) -> tuple[torch.Tensor, float]:
    """Of each sampled token, and the exact KL."""
    policy, base, tokens = toy
    trained, reference = policy[tokens], base[tokens]
    found = {
        "sampled": lambda: kl.sampled(trained, reference),
        "low_variance": lambda: kl.low_variance(trained, reference),
        "reversed": lambda: kl.sampled(reference, trained),
        "squared": lambda: 0.5 * kl.sampled(trained, reference) ** 2,  # k2: biased
    }[name]()
    return found, kl.exact(policy, base).item()


@pytest.mark.parametrize("name", ["sampled", "low_variance"])
def test_kl_estimates_have_the_exact_kl_as_their_mean(
    toy: tuple[torch.Tensor, torch.Tensor, torch.Tensor], name: str
) -> None:
    found, exact = estimates(toy, name)
    error = (found.var() / len(found)).sqrt().item()

    assert abs(found.mean().item() - exact) < 4 * error
    assert error < 0.03 * exact


@pytest.mark.parametrize("name", ["reversed", "squared"])
def test_a_wrong_estimator_is_found_out(
    toy: tuple[torch.Tensor, torch.Tensor, torch.Tensor], name: str
) -> None:
    found, exact = estimates(toy, name)
    error = (found.var() / len(found)).sqrt().item()

    assert abs(found.mean().item() - exact) > 4 * error


def test_the_low_variance_estimate_is_never_negative_and_varies_less(
    toy: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    plain, _ = estimates(toy, "sampled")
    lean, _ = estimates(toy, "low_variance")

    assert plain.min() < 0 <= lean.min()
    assert lean.var() < 0.5 * plain.var()


@pytest.mark.parametrize("start", [0.001, 0.1])
def test_the_controller_brings_a_simulated_run_to_its_target(start: float) -> None:
    """The optimum of R - beta * KL lies at KL ~ 1 / beta^2; a policy needs some steps to get
    there, and what is measured of it is noisy."""
    dice = torch.Generator().manual_seed(1)
    beta, divergence, measured, target, seen = start, 0.0, 0.0, 6.0, []
    for _ in range(300):
        price = kl.price(beta, [measured], target)
        divergence += 0.2 * (1 / price**2 - divergence)
        measured = divergence * (1 + 0.2 * torch.randn((), generator=dice).item())
        floor = kl.floor_of(seen, target, start)
        beta = kl.next_beta(beta, measured, target, gain=0.5, floor=floor)
        seen.append(divergence)

    settled = seen[200:]
    assert sum(settled) / len(settled) == pytest.approx(target, rel=0.1)
    assert beta == pytest.approx(target**-0.5, rel=0.3)


def test_the_controller_reacts_to_twenty_percent_and_not_to_more() -> None:
    assert kl.next_beta(0.1, 6.6, 6.0, gain=0.1, floor=0) == pytest.approx(0.1 * 1.01)
    assert kl.next_beta(0.1, 600.0, 6.0, gain=0.1, floor=0) == pytest.approx(0.1 * 1.02)
    assert kl.next_beta(0.1, 0.0, 6.0, gain=0.1, floor=0) == pytest.approx(0.1 * 0.98)


def test_beyond_the_target_a_nat_is_dearer_at_once_and_only_there() -> None:
    assert kl.price(0.1, [], 6.0) == kl.price(0.1, [9.0, 6.0], 6.0) == 0.1
    assert kl.price(0.1, [0.0, 18.0], 6.0) == pytest.approx(2.7)
    assert kl.price(0.1, [6000.0], 6.0) == pytest.approx(10.0)
    assert kl.price(0.1, [6000.0], None) == 0.1


def test_the_price_does_not_fall_before_the_target_was_reached_once() -> None:
    """Every run begins at 0: a price that fell meanwhile would have to be raised again first."""
    assert kl.floor_of([], 6.0, 0.1) == kl.floor_of([0.1, 5.9], 6.0, 0.1) == 0.1
    assert kl.floor_of([0.1, 6.0, 0.1], 6.0, 0.1) == 0.0
    assert kl.next_beta(0.1, 0.0, 6.0, gain=0.5, floor=0.1) == 0.1
    assert kl.next_beta(0.1, 12.0, 6.0, gain=0.5, floor=0.1) == pytest.approx(0.11)


def test_every_prompt_is_asked_once_before_any_is_asked_again() -> None:
    asked = [i for step in range(5) for i in prompts_of_step(10, 4, seed=3, step=step)]

    assert sorted(asked[:10]) == sorted(asked[10:]) == list(range(10))
    assert asked[:10] != asked[10:]
    assert prompts_of_step(10, 4, seed=3, step=2) == asked[8:12]
    assert prompts_of_step(10, 4, seed=4, step=0) != asked[:4]


@pytest.mark.parametrize(("things", "count"), [(8, 2), (7, 3), (2, 4), (0, 2), (5, 1)])
def test_shares_of_processes_are_all_there_is_and_as_even_as_can_be(
    monkeypatch: pytest.MonkeyPatch, things: int, count: int
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(count))
    shares = []
    for rank in range(count):
        monkeypatch.setenv("RANK", str(rank))
        shares.append(list(range(things))[processes.share(things)])
    assert [thing for share in shares for thing in share] == list(range(things))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
