"""Policy gradient on a tiny model that gives one of two answers: does what people like rise?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.taught_model import (
    liked,
    question,
    said,
    save_reward_model,
    write_rloo_run,
)

from learnback.retraining.plan import read_plan

pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("rloo")]


@pytest.fixture(scope="session")
def flipped_reward_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_reward_model(tmp_path_factory.mktemp("reward") / "likes-bad", flipped=True)


def train(folder: Path) -> Any:
    """The trainer in this process, as the job calls it."""
    from learnback.retraining.trainers import rloo, rows
    from learnback.retraining.trainers.progress import ProgressReport, StopRequest, describe

    plan = read_plan(folder)
    report = ProgressReport(folder, describe(plan))
    return rloo.train(plan, rows.load(folder, "rloo"), folder, report, StopRequest())


def answers_of(trained: Any, *, base: bool = False) -> list[str]:
    """Sixty-four fresh answers of the trained policy, or of the base model."""
    import torch

    from learnback.retraining.trainers.loading import reference
    from learnback.retraining.trainers.rollouts import generate

    model, tokenizer = trained.model.eval(), trained.tokenizer
    prompts = [
        tokenizer(
            tokenizer.apply_chat_template(question(i), tokenize=False, add_generation_prompt=True),
            add_special_tokens=False,
        )["input_ids"]
        for i in range(8)
    ]
    ask = (
        prompts, 8, 24, frozenset([tokenizer.eos_token_id]), tokenizer.pad_token_id,
        torch.Generator().manual_seed(5),
    )  # fmt: skip
    if base:
        with reference(model) as shown:
            rollouts = generate(shown, *ask)
    else:
        rollouts = generate(model, *ask)
    return [tokenizer.decode(r.completion, skip_special_tokens=True) for r in rollouts]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, taught: Path, reward_model: Path) -> Any:
    folder = write_rloo_run(tmp_path_factory.mktemp("rloo") / "plain", taught, reward_model)
    return train(folder), folder


def test_what_people_like_rises_and_the_guards_are_reported(trained: Any) -> None:
    result, folder = trained

    assert 0.2 < liked(answers_of(result, base=True)) < 0.8
    assert liked(answers_of(result)) > 0.75
    assert liked(said(folder, 12)) > liked(said(folder, 1))
    assert result.metrics["reward"] > result.history[0]["reward"]
    assert result.metrics["kl"] > 0
    assert result.metrics["kl_sampled"] == pytest.approx(result.metrics["kl"], abs=1.0)
    assert result.metrics["unjudged"] == 0.0
    assert result.metrics["mismatch"] < 1e-4
    assert result.metrics["held_out_win_rate"] > 0.55
    assert result.distance_from_reference > 0
    assert result.train_seconds > 0
    assert [entry["step"] for entry in result.history] == list(range(1, 13))


def test_the_kl_stays_near_its_target(tmp_path: Path, taught: Path, reward_model: Path) -> None:
    """Where a nat costs next to nothing at first, and the reward would lead the policy far away."""
    folder = write_rloo_run(
        tmp_path / "steered", taught, reward_model,
        kl_target=1.0, beta=0.05, learning_rate=5e-3, max_steps=40,
    )  # fmt: skip

    result = train(folder)

    assert result.metrics["stopped_early"] == 0.0
    assert 0.5 < result.metrics["kl"] < 2.0, "the mean of the last quarter"


def test_a_flipped_reward_makes_it_fall(
    tmp_path: Path, taught: Path, flipped_reward_model: Path
) -> None:
    folder = write_rloo_run(tmp_path / "flipped", taught, flipped_reward_model, judge_flipped=None)

    result = train(folder)

    assert liked(answers_of(result)) < 0.25
    assert result.metrics["held_out_judge"] == 0.0
    assert result.metrics["best_step"] == 12


def test_bfloat16_learns_as_well_and_sampler_and_trainer_agree(
    tmp_path: Path, taught: Path, reward_model: Path
) -> None:
    folder = write_rloo_run(tmp_path / "bfloat16", taught, reward_model, bfloat16=True)

    result = train(folder)

    assert result.history[-1]["reward"] > result.history[0]["reward"]
    assert result.metrics["mismatch"] < 0.05


def test_the_checkpoint_is_picked_by_a_judge_that_does_not_pay(
    tmp_path: Path, taught: Path, flipped_reward_model: Path
) -> None:
    """The reward says that every step is better; held-out people say the opposite."""
    folder = write_rloo_run(tmp_path / "hacked", taught, flipped_reward_model)

    result = train(folder)

    rates = [e["held_out_win_rate"] for e in result.history if "held_out_win_rate" in e]
    assert result.history[-1]["reward"] > result.history[0]["reward"]
    assert rates == sorted(rates, reverse=True)
    assert result.metrics["best_step"] == 4
    assert result.metrics["held_out_win_rate"] == max(rates)


def test_a_policy_that_drifts_is_stopped_and_what_was_good_before_is_kept(
    tmp_path: Path, taught: Path, reward_model: Path
) -> None:
    from learnback.retraining.trainers.failures import Diverged

    calm = write_rloo_run(
        tmp_path / "calm", taught, reward_model, kl_stop=0.3, kl_target=None, checkpoint_every=1
    )
    result = train(calm)
    assert result.metrics["stopped_early"] == 1.0
    assert result.steps < 12
    assert result.history[-1]["kl"] > 0.3
    assert 0 < result.metrics["best_step"] < result.steps

    wild = write_rloo_run(tmp_path / "wild", taught, reward_model, kl_stop=0.3, kl_target=None)
    with pytest.raises(Diverged, match="before the first checkpoint"):
        train(wild)


def test_a_length_far_from_the_base_models_is_drift() -> None:
    from learnback.retraining.plan import RlooHyperparameters
    from learnback.retraining.trainers.guards import drift_of

    settings = RlooHyperparameters(length_stop=2.0)

    assert drift_of({"kl": 1.0, "answer_tokens": 12.0}, 10.0, settings) == ""
    assert "tokens" in drift_of({"kl": 1.0, "answer_tokens": 21.0}, 10.0, settings)
    assert "tokens" in drift_of({"kl": 1.0, "answer_tokens": 4.0}, 10.0, settings)
    assert "KL" in drift_of({"kl": 1e6, "answer_tokens": 10.0}, 10.0, settings)


def test_answers_that_nobody_could_judge_move_nothing_and_are_counted(taught: Path) -> None:
    import torch

    from learnback.retraining.plan import RlooHyperparameters, RunPlan
    from learnback.retraining.trainers.loading import load_model, load_tokenizer
    from learnback.retraining.trainers.policy import add_gradient, trainable
    from learnback.retraining.trainers.rollouts import LocalSampler

    plan = RunPlan(
        run_id="none", method="rloo", base_model=str(taught), reward_model=taught, dataset=taught,
        hyperparameters=RlooHyperparameters(lora_rank=4),
    )  # fmt: skip
    model, tokenizer = load_model(plan), load_tokenizer(str(taught))
    sampler = LocalSampler(frozenset([tokenizer.eos_token_id]), tokenizer.pad_token_id, 8)
    groups = sampler.sample(model, [[1, 5, 6], [1, 7]], 3, 8, seed=0)

    def gradient(scores: list[list[float]]) -> tuple[float, dict[str, float]]:
        model.zero_grad()
        account = add_gradient(
            model, None, groups, torch.tensor(scores), beta=0.1, pad=tokenizer.pad_token_id,
            batch_size=3, exact_kl=True,
        )  # fmt: skip
        size = sum(float(p.grad.abs().sum()) for p in trainable(model).values())
        return size, account.metrics()

    none = float("nan")
    nothing, metrics = gradient([[none] * 3, [1.0, none, none]])
    something, other = gradient([[1.0, 0.0, none], [none] * 3])

    assert nothing == 0.0
    assert metrics["unjudged"] == pytest.approx(5 / 6)
    assert metrics["reward"] == 1.0
    assert something > 0
    assert other["reward"] == 0.5


def test_sampled_tokens_carry_the_probabilities_that_the_trainer_computes(taught: Path) -> None:
    """Over different prompts' lengths, early ends, and a batch that shrinks."""
    import torch
    from transformers import AutoModelForCausalLM

    from learnback.retraining.trainers.encoding import Encoded, padded
    from learnback.retraining.trainers.loading import load_tokenizer
    from learnback.retraining.trainers.policy import score_tokens
    from learnback.retraining.trainers.rollouts import generate

    tokenizer = load_tokenizer(str(taught))
    model = AutoModelForCausalLM.from_pretrained(taught, dtype=torch.float32)
    ends, pad = frozenset([tokenizer.eos_token_id]), tokenizer.pad_token_id
    prompts = [[1, 40, 41, 42, 43, 44, 45], [1, 50], [1, 60, 61, 62]]
    rollouts = generate(model, prompts, 6, 40, ends, pad, torch.Generator().manual_seed(3))
    inputs = padded([Encoded(r.prompt, r.completion) for r in rollouts], pad)
    with torch.no_grad():
        _, trained, _ = score_tokens(model, inputs)

    assert len({len(r.completion) for r in rollouts}) > 2
    assert all(r.finished == (r.completion[-1] in ends) for r in rollouts)
    assert all(not ends & set(r.completion[:-1]) for r in rollouts)
    sampled = torch.tensor([chance for r in rollouts for chance in r.log_probabilities])
    torch.testing.assert_close(trained, sampled, atol=1e-4, rtol=0)


def test_greedy_answers_are_those_of_transformers(taught: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from learnback.retraining.trainers.loading import load_tokenizer
    from learnback.retraining.trainers.rollouts import generate

    tokenizer = load_tokenizer(str(taught))
    model = AutoModelForCausalLM.from_pretrained(taught, dtype=torch.float32).eval()
    prompts = [[1, 40, 41, 42], [1, 50]]
    ends, pad = frozenset([tokenizer.eos_token_id]), tokenizer.pad_token_id
    ours = generate(model, prompts, 1, 12, ends, pad, torch.Generator(), temperature=0)
    for rollout in ours:
        ids = torch.tensor([rollout.prompt])
        theirs = model.generate(ids, do_sample=False, max_new_tokens=12, pad_token_id=pad)
        assert rollout.completion == theirs[0, len(rollout.prompt) :].tolist()


def test_rollouts_over_http_use_a_new_adapter_each_step_and_leave_none(
    tmp_path: Path, taught: Path, reward_model: Path
) -> None:
    from tests.adapter_engine import AdapterEngine, running

    with running(AdapterEngine(taught)) as engine:
        folder = write_rloo_run(
            tmp_path / "http", taught, reward_model, engine_url=engine.url, max_steps=6,
            checkpoint_every=3,
        )  # fmt: skip
        result = train(folder)

        assert len(engine.loaded) == len(set(engine.loaded)) >= 6
        assert all(name.startswith("rollout-http-") for name in engine.loaded)
        assert engine.adapters == {}
        assert engine.missing_at_unload == []
        assert {body["temperature"] for body in engine.asked} == {1.0}
        assert not list((folder / "engine").glob("*"))
        assert max(entry["mismatch"] for entry in result.history) < 1e-4
        assert result.metrics["reward"] > result.history[0]["reward"]


def test_an_engine_that_samples_from_other_weights_ends_the_run(
    tmp_path: Path, taught: Path, reward_model: Path
) -> None:
    from tests.adapter_engine import AdapterEngine, running

    from learnback.retraining.trainers.failures import Diverged

    with running(AdapterEngine(taught, ignores_adapters=True)) as engine:
        folder = write_rloo_run(
            tmp_path / "stale", taught, reward_model, engine_url=engine.url, mismatch_stop=0.05
        )
        with pytest.raises(Diverged, match="sampler and trainer differ"):
            train(folder)
        assert engine.adapters == {}


def test_the_engine_that_serves_people_is_refused(tmp_path: Path, taught: Path) -> None:
    from tests.adapter_engine import AdapterEngine, running

    from learnback.retraining.trainers.rollout_engine import EngineSampler, RolloutEngineFailed

    with running(AdapterEngine(taught)) as engine:
        engine.adapters["tiny-dpo-0123456789ab"] = tmp_path
        with pytest.raises(RolloutEngineFailed, match="of their own"):
            EngineSampler(engine.url, tmp_path / "engine", "run")
        engine.adapters = {"rollout-run-dead": tmp_path}
        EngineSampler(engine.url, tmp_path / "engine", "run").close()
        assert engine.adapters == {}  # what a killed process had left

    with pytest.raises(RolloutEngineFailed, match="no answer"):
        EngineSampler(engine.url, tmp_path / "engine", "run")
