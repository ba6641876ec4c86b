"""One measurement of all rungs, stage by stage.

All that the methods get are labels that simulated people gave to the pretrained model's answers.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from learnback.core.errors import LearnbackError
from learnback.local.ladder.budget import (
    ANSWERS_EACH,
    BATCH,
    CURVE_BETAS,
    KEPT_FOR_MEASURING,
    KL_ANSWERS,
    POLICY,
    Sizes,
    Speed,
    sizes,
)
from learnback.local.ladder.curve import read_curve
from learnback.local.ladder.labels import Answered, Labels, Messages, label, write_datasets
from learnback.local.ladder.measure import Rung, Scale, interval, outcomes
from learnback.local.ladder.page import LadderResult
from learnback.local.ladder.rungs import Way, ways
from learnback.local.ladder.tasks import KINDS, is_right, make_tasks
from learnback.local.ladder.training import Made, NotMade, train
from learnback.local.stages import Stage, Stages
from learnback.models import linear_reward
from learnback.models.linear_reward import Pair
from learnback.retraining.plan import Method
from learnback_simulator.people import crowd
from learnback_simulator.preferences import INDIFFERENCE, Score
from learnback_simulator.prompts import split_prompts

if TYPE_CHECKING:
    from learnback.local.ladder.writer import Writer
    from learnback.retraining.trainers.rollouts import Rollout

SYSTEM = "Answer in one short sentence."
MAX_TOKENS = 48
PEOPLE, ERROR_RATE = 16, 0.1
"""As in the demo: InstructGPT's raters agree in 73 %, so one error in ten is optimistic."""
START_S = 8.0
"""To start a training run; its libraries are loaded once, its weights each time."""
WARM_UP = 16
"""Prompts whose answers tell how fast this machine is."""
SOLVED = 3
"""Solved tasks that ways with examples show."""
EXAMPLES = 5
METHODS: tuple[Method, ...] = ("sft", "dpo", "kto", "rloo")
NAMES = {"sft": "supervised", "dpo": "DPO", "kto": "KTO", "rloo": "RLOO"}
PLAIN_SALT, RUNG_SALT, TASK_SALT, LABEL_SALT = 1, 2, 3, 1_000
"""Which random numbers: rungs share theirs, and the pretrained model's are others."""
POLICY_RATE = 1e-3
CHECKED = 10
"""How often the held-out judge looks at a policy: one that drifts soon has been judged before."""
NO_STOP = {"kl_target": None, "kl_stop": 1e6, "length_stop": 1e6}
"""For runs that are meant to go too far."""


class Ladder:
    """Everything that the stages hand on to each other."""

    def __init__(
        self, out: Path, model: str, score: Score, result: LadderResult, console: Console
    ) -> None:
        self.out = out
        self.model = model
        self.score = score
        self.result = result
        self.silence = INDIFFERENCE.get(result.preference, 0.0)
        self.methods = [m for m in METHODS if NAMES[m] not in result.named]
        self.stages = Stages(console, 5 + len(self.methods))
        self.before = dict(result.seconds)
        self.split = split_prompts(result.seed, held_out=KEPT_FOR_MEASURING)
        self.answered: list[Answered] = []

    def run(self, write: Callable[[], None]) -> None:
        """All that is not yet in the result; `write` is called when there is more in it."""
        with self.stages.stage("prepare", "the model is loaded and timed") as stage:
            self._prepare(stage)
        with self.stages.stage("label", "people judge the pretrained model's answers") as stage:
            self._label(stage)
        with self.stages.stage("reward", "the reward model is fitted") as stage:
            self._fit_reward(stage)
        with self.stages.stage("ask", "ways to ask are measured") as stage:
            self._measure_ways(stage)
        self._note(write)
        for method in self.methods:
            with self.stages.stage(method, f"{NAMES[method]} is trained and measured") as stage:
                self._measure_method(method, stage)
            self._note(write)
        with self.stages.stage("curve", "policies are optimised too far") as stage:
            self._draw_curves(stage)
        self._note(write)

    def _note(self, write: Callable[[], None]) -> None:
        self.result.seconds = {
            name: round(self.before.get(name, 0.0) + self.stages.seconds.get(name, 0.0), 2)
            for name in {**self.before, **self.stages.seconds}
        }
        write()

    def _prepare(self, stage: Stage) -> None:
        from learnback.local.ladder.writer import Writer  # slow: torch

        self.writer: Writer = Writer(self.model, MAX_TOKENS, self.result.seed)
        started = time.monotonic()
        first = self._answer(self.split.train[:WARM_UP], stage)
        seconds = (time.monotonic() - started) / sum(map(len, first))
        read, learn = self.writer.time_learning([group[0] for group in first[:BATCH]])
        speed = Speed(seconds, read, learn, START_S)
        rungs = len(ways([], 0)) + 1 + len(METHODS)
        if self.result.sizes:  # it goes on: rungs must stay comparable
            self.sizes = Sizes(**self.result.sizes)
        else:
            self.sizes = sizes(60 * self.result.budget_minutes, speed, rungs)
            self.result.speed, self.result.sizes = asdict(speed), asdict(self.sizes)
        stage.note = f"{1 / seconds:.1f} answers a second"

    def _answer(self, prompts: Sequence[str], stage: Stage) -> list[list[Rollout]]:
        """Let the pretrained model answer prompts several times, for people to judge."""
        chats = [messages_of(prompt) for prompt in prompts]
        groups = self.writer.write(
            chats,
            samples=ANSWERS_EACH,
            salt=LABEL_SALT + len(self.answered),
            progress=lambda done, total: stage.advance(done, total, f"{done} prompts"),
        )
        for prompt, chat, group in zip(prompts, chats, groups, strict=True):
            said = tuple((self.writer.text(r), r.finished) for r in group)
            self.answered.append(Answered(prompt, chat, said))
        return groups

    def _label(self, stage: Stage) -> None:
        self._answer(self.split.train[WARM_UP : self.sizes.labelled_prompts], stage)
        people = crowd(
            PEOPLE,
            self.score,
            seed=self.result.seed,
            error_rate=ERROR_RATE,
            indifference=self.silence,
        )
        self.labels: Labels = label(self.answered, people, self.score, self.silence)
        held_out = {row["prompt"] for row in self.labels.held_out_pairs}
        asked = [messages_of(prompt) for prompt in self.split.train]
        self.datasets = write_datasets(
            self.labels,
            [chat for chat in asked if json.dumps(chat) not in held_out],
            self.out / "data",
        )
        self.result.labels = {
            "comparisons to learn from": len(self.labels.pairs),
            "comparisons held out": len(self.labels.held_out_pairs),
            "thumbs": len(self.labels.thumbs),
        }
        stage.note = f"{len(self.labels.pairs)} comparisons, {len(self.labels.thumbs)} thumbs"
        if not (self.labels.pairs and self.labels.held_out_pairs and self.labels.liked):
            raise LearnbackError(
                "People see too little difference between this model's answers: there is nothing "
                "to learn from. Take another --preference, or a larger --budget."
            )

    def _fit_reward(self, stage: Stage) -> None:
        model = linear_reward.fit(_pairs(self.labels.pairs), seed=self.result.seed)
        self.reward_folder = self.out / "reward"
        model.save(self.reward_folder)
        found = model.evaluate(_pairs(self.labels.held_out_pairs))
        self.result.reward_model = linear_reward.metrics_of(found, "held_out")
        said = [(e, text) for e in self.answered for text, _ in e.answers]
        self.gold_scale = Scale.of([self.score(e.prompt, text) for e, text in said])
        self.paid_scale = Scale.of(model.score_many([(tuple(e.messages), t) for e, t in said]))
        stage.note = f"held-out accuracy {found.accuracy or 0:.2f}"

    def _measure_ways(self, stage: Stage) -> None:
        self.asked = self.split.held_out[: self.sizes.measured_prompts]
        self.plain = [messages_of(prompt) for prompt in self.asked]
        first = self.writer.write(self.plain, salt=PLAIN_SALT)
        self.pretrained = [self.writer.text(group[0]) for group in first]
        found = ways(self.labels.best, len(self.labels.thumbs))
        every = [way for way in found if way.name not in self.result.named]
        for number, way in enumerate(every):
            stage.advance(number, len(every), way.name)
            self._measure(way, signals=way.signals)

    def _measure_method(self, method: Method, stage: Stage) -> None:
        steps = asdict(self.sizes)[f"{method}_steps"]
        if self.result.failed.pop(NAMES[method], None):
            shutil.rmtree(self.out / "runs" / method, ignore_errors=True)
        own: dict[str, Any] = {"batch_size": BATCH, "bfloat16": self.writer.bfloat16}
        if method == "rloo":
            own |= policy_settings() | {"evaluation_prompts": 16}
            own["checkpoint_every"] = max(1, steps // CHECKED)
        try:
            made = self._train(method, method, stage, max_steps=steps, **own)
        except NotMade as error:
            self.result.failed[NAMES[method]] = error.detail
            stage.note = f"failed: {error.detail}"
            return
        rows = {"sft": len(self.labels.liked), "kto": len(self.labels.thumbs)}
        self._measure(Way(NAMES[method]), made, signals=rows.get(method, len(self.labels.pairs)))
        if method == "rloo":
            self._read_curve("beta controlled", made)
        stage.note = f"win rate {self.result.rungs[-1].win_rate:.2f}"

    def _draw_curves(self, stage: Stage) -> None:
        drawn = {curve.name for curve in self.result.curves}
        for beta in (beta for beta in CURVE_BETAS if f"beta {beta:g}" not in drawn):
            self.result.failed.pop(f"the curve of beta {beta:g}", None)
            own = policy_settings() | NO_STOP | {"beta": beta, "evaluation_prompts": 2}
            own["bfloat16"] = self.writer.bfloat16
            try:
                made = self._train(
                    f"curve-{beta:g}", "rloo", stage, max_steps=self.sizes.curve_steps, **own
                )
            except NotMade as error:
                self.result.failed[f"the curve of beta {beta:g}"] = error.detail
                continue
            self._read_curve(f"beta {beta:g}", made)

    def _train(self, name: str, method: Method, stage: Stage, **own: Any) -> Made:
        return train(
            self.out / "runs" / name,
            method,
            stage,
            base_model=self.model,
            dataset=self.datasets[method],
            seed=self.result.seed,
            reward_model=self.reward_folder if method == "rloo" else None,
            **{"checkpoint_every": max(1, own["max_steps"] // 2), **own},
        )

    def _read_curve(self, name: str, made: Made) -> None:
        self.result.curves.append(
            read_curve(name, made.folder, self.score, self.gold_scale, self.paid_scale)
        )

    def _measure(self, way: Way, made: Made | None = None, *, signals: int = 0) -> None:
        """Add a rung: answers to prompts that no method saw, and made-up tasks."""
        with self.writer.with_adapter(made.adapter if made else None):
            started = time.monotonic()
            groups = self.writer.write([way.ask(chat) for chat in self.plain], salt=RUNG_SALT)
            seconds = (time.monotonic() - started) / len(groups)
            rollouts = [group[0] for group in groups]
            divergence = self.writer.divergence(rollouts[:KL_ANSWERS], self.plain)
            tasks = self._solve(way)
        said = [self.writer.text(rollout) for rollout in rollouts]
        won = outcomes(self.score, self.asked, said, self.pretrained)
        rate, low, high = interval(won, self.result.seed)
        self.result.rungs.append(
            Rung(
                name=way.name,
                win_rate=rate,
                low=low,
                high=high,
                length=sum(len(r.completion) for r in rollouts) / len(rollouts),
                kl=divergence,
                seconds=made.seconds if made else 0.0,
                answer_seconds=seconds,
                signals=signals,
                tasks=tasks,
                metrics=made.metrics if made else {},
                examples=[f"{p}\n{s}" for p, s in zip(self.asked[:EXAMPLES], said, strict=False)],
            )
        )

    def _solve(self, way: Way) -> dict[str, float]:
        """The share of made-up tasks of each kind that are solved, by the likeliest answers."""
        count, seed = self.sizes.tasks, self.result.seed
        solved = {kind: make_tasks(kind, SOLVED, seed) for kind in KINDS}
        posed = [task for kind in KINDS for task in make_tasks(kind, count, seed + 1)]
        chats = [way.ask_task(task, solved[task.kind]) for task in posed]
        groups = self.writer.write(chats, temperature=0.0, salt=TASK_SALT)
        right: dict[str, float] = dict.fromkeys(KINDS, 0.0)
        for task, group in zip(posed, groups, strict=True):
            right[task.kind] += is_right(task, self.writer.text(group[0])) / count
        return right


def messages_of(prompt: str) -> Messages:
    """What people ask, as they ask it."""
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": prompt}]


def policy_settings() -> dict[str, Any]:
    """Of all RLOO runs: few steps, so they are larger than by default."""
    prompts, samples = POLICY
    return {
        "learning_rate": POLICY_RATE,
        "prompts_per_step": prompts,
        "rollouts": samples,
        "max_new_tokens": MAX_TOKENS,
        "batch_size": 2 * samples,
    }


def _pairs(rows: Sequence[dict[str, Any]]) -> list[Pair]:
    return [Pair(tuple(json.loads(r["prompt"])), r["chosen"], r["rejected"]) for r in rows]
