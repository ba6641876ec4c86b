"""Policy gradient on a learned reward: REINFORCE with a leave-one-out baseline and a KL penalty.

Each step asks some prompts several times, scores the answers, and moves the policy towards R(s) -
beta * log(p_RL(s) / p_PT(s)), where p_PT is always the base model (formulas and sources:
advantages.py, kl.py). Departs from arXiv:2402.14740 in that beta follows a KL target, that rollouts
may come from another engine and are then weighted by importance, and that a judge by which the
policy is not paid picks the checkpoint. One update per batch of rollouts, so no ratio is clipped.

Several processes share out the prompts of a step and add up their gradients; whatever decides how
to go on (metrics, held-out answers, a stop) all of them know.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from learnback.models import reward
from learnback.retraining.plan import CHECKPOINT_DIRECTORY, RlooHyperparameters, RunPlan
from learnback.retraining.trainers import answers, kl, processes, rloo_state, rollout_files
from learnback.retraining.trainers.base import Trained
from learnback.retraining.trainers.encoding import Encoded, Encoder
from learnback.retraining.trainers.failures import BadData, Diverged, Interrupted
from learnback.retraining.trainers.guards import check, drift_of
from learnback.retraining.trainers.held_out_judge import find_judge, win_rate
from learnback.retraining.trainers.likelihood import distance_from_reference
from learnback.retraining.trainers.loading import (
    load_model,
    load_reference_copy,
    load_tokenizer,
    reference,
)
from learnback.retraining.trainers.policy import add_gradient, trainable
from learnback.retraining.trainers.progress import (
    ProgressReport,
    StopRequest,
    check_stop,
    event_writer,
    mean_of_last_quarter,
)
from learnback.retraining.trainers.rloo_state import RlooState
from learnback.retraining.trainers.rollout_engine import open_sampler
from learnback.retraining.trainers.rollouts import (
    Prompt,
    Rollout,
    mean_length,
    prompts_of_step,
    select_prompts,
    some,
)
from learnback.retraining.trainers.rows import PromptRow, Rows
from learnback.retraining.trainers.schedule import share_of_peak, warmup_steps

EVALUATION_SEED = 1_000_003
"""Evaluations draw the same random numbers, so that they differ by the weights alone."""
STEP_SEED = 7_919
"""Keeps the random numbers of one step away from those of the next, and of neighbouring seeds."""


def train(
    plan: RunPlan,
    rows: Rows[PromptRow],
    directory: Path,
    report: ProgressReport,
    stop: StopRequest,
) -> Trained:
    """Train to the plan's last step, or until the policy drifts; hand over the best checkpoint.

    Goes on from the newest whole checkpoint in ``directory``. Raises BadData if nothing can be
    asked, Diverged if numbers are none, sampler and trainer disagree, or the policy drifts before
    it was ever evaluated; Interrupted after SIGTERM (with a checkpoint).
    """
    settings = plan.settings(RlooHyperparameters)
    set_seed(plan.seed)
    tokenizer = load_tokenizer(plan.base_model)
    encoder = Encoder.of(plan, tokenizer)
    asked, skipped = select_prompts(rows.train, encoder, settings.max_new_tokens)
    kept, _ = select_prompts(rows.held_out, encoder, settings.max_new_tokens)
    if not asked:
        raise BadData(f"no prompt can be asked: {len(rows.train)} in the dataset, {skipped}")
    step, together = settings.prompts_per_step, processes.count()
    if step % together:
        raise BadData(f"a step of {step} prompts can't be shared out among {together} processes")
    check_stop(stop)
    processes.join()
    evaluated = some(kept or asked, settings.evaluation_prompts, plan.seed)
    run = _Run(plan, directory, tokenizer, asked, evaluated)
    with closing(run.sampler):
        resumed_from = run.fit(report, stop)
        report.update(state="measuring", step=run.state.global_step, eta_seconds=None)
        return run.account(resumed_from, skipped, encoder.limit)


class _Run:
    """One run, and everything that its steps need."""

    def __init__(
        self,
        plan: RunPlan,
        directory: Path,
        tokenizer: Any,
        asked: list[Prompt],
        evaluated: list[Prompt],
    ) -> None:
        self.plan = plan
        self.settings = plan.settings(RlooHyperparameters)
        self.directory = directory
        self.checkpoints = directory / CHECKPOINT_DIRECTORY
        self.tokenizer = tokenizer
        self.asked = asked
        self.evaluated = evaluated
        self.max_steps = self.settings.steps(len(asked))
        self.reward = open_reward(plan)
        self.judge = find_judge(plan.dataset, plan.seed)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = load_model(plan).to(device)
        if self.settings.gradient_checkpointing:
            self.model.enable_input_require_grads()
            self.model.gradient_checkpointing_enable()
        copy = load_reference_copy(plan)
        self.copy = None if copy is None else copy.to(device)
        self.sampler = open_sampler(plan, directory, self.model, tokenizer)
        self.optimizer = torch.optim.AdamW(
            trainable(self.model).values(), lr=self.settings.learning_rate, weight_decay=0.0
        )
        self.state = RlooState(beta=self.settings.beta)
        self.seconds = 0.0
        """In this process's steps and checkpoints, without evaluations."""

    def fit(self, report: ProgressReport, stop: StopRequest) -> int:
        """Train to the end and put the best weights into the model; returns the step it was
        resumed from.
        """
        self.state = rloo_state.restore(
            self.checkpoints, self.model, self.optimizer, self.settings.beta
        )
        resumed_from, started = self.state.global_step, time.monotonic()
        report.update(state="training", step=resumed_from, max_steps=self.max_steps)
        events = event_writer(self.directory, resumed_from) if report.main else None
        if resumed_from == 0:
            self._measure_base()
        while self.state.global_step < self.max_steps and not self.state.drift:
            self._stop_if_asked(stop)
            self._timed(self._step)
            per_step = (time.monotonic() - started) / (self.state.global_step - resumed_from)
            self._show(report, per_step * (self.max_steps - self.state.global_step))
            if self._is_due():
                self._evaluate()
                self._timed(self._save)
            if events is not None:
                for name, value in self.state.history[-1].items():
                    events.add_scalar(name, value, self.state.global_step)
        if events is not None:
            events.close()
        if self.state.best_step == 0:
            raise Diverged(f"{self.state.drift}, before the first checkpoint")
        if report.main:
            rloo_state.load_best(self.checkpoints, self.state, self.model)
        return resumed_from

    def account(self, resumed_from: int, skipped: dict[str, int], limit: int) -> Trained:
        """What came of it; the first process alone, which publishes it, measures more."""
        found = Trained(
            model=self.model,
            tokenizer=self.tokenizer,
            steps=self.state.global_step,
            resumed_from_step=resumed_from,
            rows_used=len(self.asked),
            rows_skipped=skipped,
            metrics=self.metrics(),
            train_seconds=self.seconds or None,
            history=self.state.history,
        )
        if processes.is_main():
            self._measure(found, limit)
        return found

    def _measure(self, found: Trained, limit: int) -> None:
        """The distance, which is the mean KL per token of the policy's own answers, and samples."""
        groups = self._sample(self.evaluated, 1, EVALUATION_SEED)
        own = [Encoded(group[0].prompt, group[0].completion) for group in groups]
        pad = self.tokenizer.pad_token_id
        found.distance_from_reference = distance_from_reference(
            self.model, own, pad, copy=self.copy
        )
        found.samples = answers.sample(
            self.model,
            self.tokenizer,
            [prompt.messages for prompt in self.evaluated],
            limit=limit,
            seed=self.plan.seed,
            copy=self.copy,
        )

    def metrics(self) -> dict[str, float]:
        """Of the run: means over its last quarter, and how its end was chosen."""
        found = mean_of_last_quarter(self.state.history)
        found |= {
            "best_step": float(self.state.best_step),
            "stopped_early": float(bool(self.state.drift)),
            "held_out_judge": float(self.judge is not None),
        }
        if self.state.best_win_rate is not None:
            found["held_out_win_rate"] = self.state.best_win_rate
        return found

    def _timed(self, do: Callable[[], None]) -> None:
        began = time.monotonic()
        do()
        self.seconds += time.monotonic() - began

    def _step(self) -> None:
        """Ask, score, learn, and look whether the policy still is where it should be."""
        number = self.state.global_step
        indices = prompts_of_step(
            len(self.asked), self.settings.prompts_per_step, self.plan.seed, number
        )
        prompts = [self.asked[i] for i in indices]
        groups = self._ask(prompts, self.settings.rollouts, STEP_SEED * (number + 1))
        prompts = prompts[processes.share(len(prompts))]
        texts = [[self._text(rollout) for rollout in group] for group in groups]
        scores = self._score(prompts, texts)
        metrics = self._learn(groups, scores)
        self.state.global_step += 1
        self.state.history.append({"step": float(self.state.global_step), **metrics})
        everything = processes.gathered(rollout_files.said(prompts, texts, scores))
        if processes.is_main():
            rollout_files.keep(self.directory, self.state.history[-1], everything)
        self._steer()
        self.state.drift = drift_of(metrics, self.state.base_length, self.settings)

    def _steer(self) -> None:
        """Let beta follow the target, if there is one."""
        target, seen = self.settings.kl_target, self._seen()
        if target is not None:
            floor, gain = kl.floor_of(seen, target, self.settings.beta), self.settings.kl_gain
            self.state.beta = kl.next_beta(self.state.beta, seen[-1], target, gain, floor)

    def _seen(self) -> list[float]:
        return [entry["kl"] for entry in self.state.history]

    def _ask(
        self, prompts: list[Prompt], samples: int, number: int, *, base: bool = False
    ) -> list[list[Rollout]]:
        """This process's share of the answers of the policy, (prompts, samples), or of the base
        model; an engine is asked by one process for all.
        """
        own = processes.share(len(prompts))
        if self.settings.engine_url is None:
            return self._sample(prompts[own], samples, number + own.start, base=base)
        return processes.from_main(lambda: self._sample(prompts, samples, number, base=base))[own]

    def _sample(
        self, prompts: list[Prompt], samples: int, number: int, *, base: bool = False
    ) -> list[list[Rollout]]:
        tokens, limit = [p.tokens for p in prompts], self.settings.max_new_tokens
        seed = (self.plan.seed << 31) + number
        with self._precision():
            if not base:
                return self.sampler.sample(self.model, tokens, samples, limit, seed)
            with reference(self.model, self.copy) as model:
                return self.sampler.sample(model, tokens, samples, limit, seed, base=True)

    def _score(self, prompts: list[Prompt], texts: list[list[str]]) -> torch.Tensor:
        """The reward of each answer, (prompts, samples), NaN where it can't be judged."""
        items = [
            (tuple(prompt.messages), text)
            for prompt, said in zip(prompts, texts, strict=True)
            for text in said
        ]
        scores = [scored.score for scored in self.reward.score_batch(items)]
        known = [math.nan if s is None or not math.isfinite(s) else s for s in scores]
        return torch.tensor(known).view(len(prompts), -1)

    def _learn(self, groups: list[list[Rollout]], scores: torch.Tensor) -> dict[str, float]:
        """One optimiser step. Raises Diverged, and then no weight has changed."""
        settings = self.settings
        beta = kl.price(self.state.beta, self._seen(), settings.kl_target)
        self.optimizer.zero_grad()
        self.model.train()
        account = add_gradient(
            self.model,
            self.copy,
            groups,
            scores,
            self._precision,
            beta=beta,
            pad=self.tokenizer.pad_token_id,
            batch_size=settings.batch_size // processes.count(),
            exact_kl=settings.exact_kl,
        ).of_all(self.model.device)
        weights = list(trainable(self.model).values())
        processes.add_up(weight.grad for weight in weights if weight.grad is not None)
        norm = torch.nn.utils.clip_grad_norm_(weights, settings.max_grad_norm)
        rate = learning_rate(self.state.global_step, self.max_steps, settings)
        metrics = account.metrics() | {
            "beta": beta,
            "grad_norm": norm.item(),
            "learning_rate": rate,
        }
        check(metrics, settings.mismatch_stop, self.state.global_step + 1)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        return metrics

    def _precision(self) -> AbstractContextManager[Any]:
        """bfloat16 where it is asked for; weights keep their own."""
        kind = self.model.device.type
        found: AbstractContextManager[Any] = torch.autocast(
            kind, torch.bfloat16, enabled=self.settings.bfloat16
        )
        return found

    def _is_due(self) -> bool:
        """Whether this step ends with an evaluation and a checkpoint; one that drifted does not."""
        step = self.state.global_step
        due = step % self.settings.checkpoint_every == 0 or step == self.max_steps
        return due and not self.state.drift

    def _measure_base(self) -> None:
        """How long the base model's answers are, and what the held-out judge thinks of them."""
        groups = self._ask_all(base=True)
        self.state.base_length = mean_length(groups)
        self.state.base_scores = self._judged(groups)

    def _evaluate(self) -> None:
        """Ask held-out prompts, and keep the weights if the held-out judge likes them best."""
        groups = self._ask_all()
        entry = self.state.history[-1]
        entry["held_out_tokens"] = mean_length(groups)
        if self.judge is not None:
            rate = win_rate(self._judged(groups), self.state.base_scores)
            entry["held_out_win_rate"] = rate
            if self.state.best_win_rate is not None and rate <= self.state.best_win_rate:
                return
            self.state.best_win_rate = rate
        rloo_state.keep_best(self.checkpoints, self.state, self.model)

    def _ask_all(self, *, base: bool = False) -> list[list[Rollout]]:
        """One answer to each evaluated prompt, whoever sampled it."""
        return processes.gathered(self._ask(self.evaluated, 1, EVALUATION_SEED, base=base))

    def _judged(self, groups: list[list[Rollout]]) -> list[float]:
        """The held-out judge's scores of one answer to each evaluated prompt; none without it."""
        if self.judge is None:
            return []
        said = [self._text(group[0]) for group in groups]
        return self.judge.scores(
            [(p.messages, text) for p, text in zip(self.evaluated, said, strict=True)]
        )

    def _save(self) -> None:
        rloo_state.save(self.checkpoints, self.state, self.model, self.optimizer)

    def _stop_if_asked(self, stop: StopRequest) -> None:
        if processes.any_of_them(stop.requested, self.model.device):
            if self.state.global_step > 0:
                self._save()
            raise Interrupted

    def _text(self, rollout: Rollout) -> str:
        return str(self.tokenizer.decode(rollout.completion, skip_special_tokens=True)).strip()

    def _show(self, report: ProgressReport, seconds_left: float) -> None:
        metrics = dict(self.state.history[-1])
        report.update(
            step=int(metrics.pop("step")),
            max_steps=self.max_steps,
            eta_seconds=round(seconds_left, 1),
            loss=metrics.pop("loss"),
            metrics=metrics,
        )


def learning_rate(step: int, max_steps: int, settings: RlooHyperparameters) -> float:
    """Of the step after ``step`` others."""
    warmup = warmup_steps(settings.warmup_fraction, max_steps)
    return settings.learning_rate * share_of_peak(step, max_steps, warmup)


def open_reward(plan: RunPlan) -> reward.RewardModel:
    """What the policy is paid by. Raises BadData."""
    if plan.reward_model is None:
        raise BadData("rloo needs a reward model")
    try:
        return reward.load(plan.reward_model)
    except ValueError as error:
        raise BadData(f"the reward model can't be used: {error}") from error
