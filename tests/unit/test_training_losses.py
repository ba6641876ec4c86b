"""The losses against values worked out by hand from the papers' equations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from learnback.retraining.trainers import losses
from learnback.retraining.trainers.calibration import (
    cross_fitted,
    fit_temperature,
    reliability,
)
from learnback.retraining.trainers.schedule import share_of_peak, warmup_steps


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


TRAINED = torch.tensor([[-1.0, -2.0], [-3.0, 0.0]])  # chosen -3, rejected -3 (one token)
UNTRAINED = torch.tensor([[-2.0, -3.0], [-2.0, 0.0]])  # chosen -5, rejected -2
MASK = torch.tensor([[True, True], [True, False]])


def preference(**changes: object) -> tuple[float, dict[str, torch.Tensor]]:
    options = {"kind": "sigmoid", "beta": 0.5, **changes}
    loss, metrics = losses.preference_loss(TRAINED, UNTRAINED, MASK, **options)  # type: ignore[arg-type]
    return loss.item(), metrics


def test_dpo_is_equation_7_of_its_paper() -> None:
    # log-ratios: chosen -3 - -5 = 2, rejected -3 - -2 = -1; beta 0.5: -log sigmoid(0.5 * 3)
    loss, metrics = preference()

    assert loss == pytest.approx(-math.log(sigmoid(1.5)))
    assert metrics["rewards/margins"].tolist() == [1.5]
    assert metrics["lengths/chosen"].tolist() == [2.0]


def test_smoothed_dpo_expects_a_share_of_wrong_labels() -> None:
    expected = -0.9 * math.log(sigmoid(1.5)) - 0.1 * math.log(sigmoid(-1.5))

    assert preference(label_smoothing=0.1)[0] == pytest.approx(expected)


def test_ipo_is_equation_17_of_its_paper_on_means_over_tokens() -> None:
    # means: chosen 2 / 2 tokens = 1, rejected -1 / 1 = -1; (2 - 1 / (2 * 0.5))^2 = 1
    assert preference(kind="ipo")[0] == pytest.approx(1.0)
    assert preference(kind="ipo", beta=0.25)[0] == pytest.approx(0.0)


def test_kto_is_the_loss_of_section_4_1_of_its_paper() -> None:
    ratio, label = torch.tensor([2.0, 2.0]), torch.tensor([True, False])
    liked, disliked = losses.label_losses(ratio, torch.tensor(1.0), label, 0.5, 1.0, 3.0).tolist()

    assert liked == pytest.approx(1 - sigmoid(0.5))
    assert disliked == pytest.approx(3 * (1 - sigmoid(-0.5)))


@pytest.mark.parametrize(("liked", "disliked"), [(10, 30), (30, 10), (7, 7)])
def test_the_rarer_label_is_weighted_up_until_both_count_the_same(
    liked: int, disliked: int
) -> None:
    desirable, undesirable = losses.balancing_weights(liked, disliked)

    assert desirable * liked == pytest.approx(undesirable * disliked)
    assert min(desirable, undesirable) == 1.0


def comparison(difference: float, *, strength: float = 1.0, tie: bool = False) -> float:
    found = losses.pair_losses(
        torch.tensor([difference]), torch.tensor([strength]), torch.tensor([tie]), 0.5
    )
    return float(found[0])


def test_without_strength_a_comparison_is_plain_bradley_terry() -> None:
    better, worse = 1.2, 0.4
    expected = math.exp(better) / (math.exp(better) + math.exp(worse))

    assert comparison(better - worse, strength=0.0) == pytest.approx(-math.log(expected))


def test_winning_losing_and_tying_add_up_to_one_as_rao_and_kupper_have_it() -> None:
    better, worse, ratio = math.exp(1.2), math.exp(0.4), math.exp(0.5)
    won, lost = better / (better + ratio * worse), worse / (worse + ratio * better)
    tied = better * worse * (ratio**2 - 1) / ((better + ratio * worse) * (worse + ratio * better))

    assert comparison(0.8) == pytest.approx(-math.log(won), rel=1e-5)
    assert comparison(0.8, tie=True) == pytest.approx(-math.log(tied), rel=1e-5)
    assert won + lost + tied == pytest.approx(1.0)


def test_a_tie_pulls_rewards_together() -> None:
    assert comparison(0.0, tie=True) < comparison(1.0, tie=True)
    assert comparison(1.0, tie=True) == pytest.approx(comparison(-1.0, tie=True))


def test_supervised_loss_weighs_rows() -> None:
    weighed = losses.supervised_loss(TRAINED, torch.tensor([2.0, 0.5]))

    assert weighed.item() == pytest.approx(2 * 3 + 0.5 * 3)


def test_a_known_temperature_is_found_again() -> None:
    generator = np.random.default_rng(0)
    chances = 1 / (1 + np.exp(-generator.normal(0, 2, 5000)))
    honest = np.log(chances / (1 - chances))
    signs = np.where(generator.random(5000) < chances, 1, -1)

    assert fit_temperature((3.0 * honest * signs).tolist()) == pytest.approx(3.0, rel=0.1)
    assert fit_temperature([]) == 1.0


def test_a_few_pairs_that_are_all_right_do_not_make_certainty() -> None:
    margins = [0.5] * 8
    temperature = fit_temperature(margins)

    assert 1 / (1 + math.exp(-0.5 / temperature)) == pytest.approx(9 / 10, abs=0.01)


def test_a_calibration_is_judged_by_pairs_that_it_was_not_fitted_to() -> None:
    """Noise alone: a temperature that was fitted to it finds something in it, another one can't."""
    dice = np.random.default_rng(3)
    worth, flattered = [], []
    for _ in range(200):
        noise = dice.normal(0, 2, 20).tolist()
        honest = cross_fitted(noise, [str(i // 2) for i in range(20)])
        worth.append(nll(honest))
        flattered.append(nll([d / fit_temperature(noise) for d in noise]))

    assert np.mean(flattered) < math.log(2) < np.mean(worth)
    assert cross_fitted([1.0, -2.0], ["one", "one"]) == [1.0, -2.0]
    assert cross_fitted([], []) == []


def nll(margins: list[float]) -> float:
    return float(np.logaddexp(0, -np.array(margins)).mean())


def test_every_step_of_a_run_learns_and_the_rate_falls_to_nothing_after_the_last() -> None:
    def shares(steps: int, warmup: int) -> list[float]:
        return [share_of_peak(step, steps, warmup) for step in range(steps + 1)]

    assert shares(1, warmup_steps(0.1, 1)) == [0.5, 0.0]
    assert shares(5, 2) == pytest.approx([1 / 3, 2 / 3, 1, 2 / 3, 1 / 3, 0])
    assert shares(2, 0) == [1, 0.5, 0]


def test_reliability_shows_overconfidence() -> None:
    sure_and_right_in_three_of_four = [4.0, 4.0, 4.0, -4.0]
    low, high = reliability(sure_and_right_in_three_of_four)

    assert (low.happened, high.happened) == (0.25, 0.75)
    assert high.predicted > 0.95
    assert low.pairs + high.pairs == 8


def test_a_bin_of_the_reliability_plot_has_the_interval_of_its_pairs() -> None:
    low, high = reliability([1.0] * 8 + [-1.0] * 2)

    assert low.interval == pytest.approx((0.0567, 0.5098), abs=1e-4)  # 2 of 10, by Wilson
    assert high.interval == pytest.approx((0.4902, 0.9433), abs=1e-4)  # 8 of 10
