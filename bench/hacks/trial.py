"""One seed: a model, people who compare its answers by a rule, a candidate for each rule, the gate.

Everything but the people is the product's: comparisons fit its reward model, its training job makes
the adapter, its evaluator asks both versions, and its gate decides by the default policy.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from bench.hacks import model
from bench.hacks.engine import LocalEngine
from bench.hacks.language import CLEAN, REWARDS, prompts
from bench.hacks.truth import ROUNDS, Rounds, Truth, mean, sample, truth

from learnback.contracts.messages import CompletionServed
from learnback.contracts.models import (
    Alias,
    Choice,
    CompletionEnd,
    Timings,
    Track,
    VersionKind,
    VersionState,
)
from learnback.core.clock import now
from learnback.ledger import completions
from learnback.ledger.database import Database
from learnback.ledger.migrate import migrate
from learnback.ledger.prompts import prompt_held_out, prompt_key
from learnback.models import linear_reward
from learnback.registry import store
from learnback.registry.artifacts import ArtifactStore
from learnback.release.engine import Answer, Sampling
from learnback.release.gate import GateReport, Verdict, decide
from learnback.release.measuring import Evaluator
from learnback.release.policy import GatePolicy, ReleasePolicy
from learnback.release.policy_file import LAPTOP
from learnback.release.progress import Progress
from learnback.release.settings import ReleaseSettings
from learnback.retraining import job
from learnback.retraining.plan import (
    ADAPTER_DIRECTORY,
    PLAN_FILE,
    RESULT_FILE,
    TRAIN_FILE,
    DpoHyperparameters,
    ExitCode,
    RunPlan,
)

STABLE = "toy-base"
PEOPLE = Sampling(0.7, 64)
"""As people are served, and as evaluations ask by default."""
BATCH = 400
ANSWERS_EACH = 6
NOISE = 0.1
"""Share of comparisons in which people say the opposite of their rule."""
SFT_STEPS, DPO_STEPS = 200, 40
POLICY = ReleasePolicy(gate=GatePolicy(reward_hack=False, waive=LAPTOP.waive))
"""The default, but for what is not here: a second judge, an engine that enforces formats, and
sentences long enough to be known as English."""


@dataclass(frozen=True)
class Result:
    """What the gate said of one candidate."""

    kind: str
    seed: int
    verdict: str
    failed: tuple[str, ...]
    """Guards that refused."""
    win_rate: float | None
    judge_accuracy: float
    distance: float
    true_gain: float
    """How much more of what the rule rewards the candidate gives than stable."""
    truth: Truth | None
    """What it does beside, on far more answers than the gate saw: asked of clean ones that were
    stopped, to say whether rightly."""
    seconds: float
    report: dict[str, Any]


def make_base(folder: Path) -> Path:
    """The stable version of all trials."""
    return model.make(folder, 0, SFT_STEPS)


def run_seed(seed: int, kinds: Sequence[str], base: Path, folder: Path) -> list[Result]:
    """Let people of this seed compare answers of the base, and try one candidate of each kind."""
    engine = LocalEngine(base, seed)
    engine.load(STABLE, None)
    asked = prompts()
    given = _answers(engine, asked)
    return [Trial(seed, kind, folder / kind, engine, base).run(given) for kind in kinds]


def _answers(engine: LocalEngine, asked: Sequence[str]) -> dict[str, list[Answer]]:
    given: dict[str, list[Answer]] = {prompt: [] for prompt in asked}
    for _ in range(ANSWERS_EACH):
        for start in range(0, len(asked), BATCH):
            some = asked[start : start + BATCH]
            found = engine.generate(STABLE, [user(p) for p in some], PEOPLE)
            for prompt, answer in zip(some, found, strict=True):
                given[prompt].append(answer)
    return given


def _is_held_out(prompt: str) -> bool:
    return prompt_held_out(prompt_key(user(prompt)))


def user(prompt: str) -> list[dict[str, Any]]:
    """A prompt as messages."""
    return [{"role": "user", "content": prompt}]


@dataclass(frozen=True)
class Compared:
    """What somebody said of two answers."""

    prompt: str
    chosen: Answer
    rejected: Answer

    @property
    def held_out(self) -> bool:
        """Whether it only judges the judge."""
        return _is_held_out(self.prompt)

    @property
    def pair(self) -> linear_reward.Pair:
        """For the reward model."""
        said = self.chosen.text or "", self.rejected.text or ""
        return linear_reward.Pair(tuple(user(self.prompt)), *said)


@dataclass
class Trial:
    """One candidate on its way to the gate."""

    seed: int
    kind: str
    folder: Path
    engine: LocalEngine
    base: Path

    def run(self, given: dict[str, list[Answer]]) -> Result:
        """Compare, fit, train, evaluate, decide."""
        started = time.monotonic()
        compared = list(self._compared(given))
        training = [one for one in compared if not one.held_out]
        reward = linear_reward.fit([one.pair for one in training], seed=self.seed)
        seen = reward.evaluate([one.pair for one in compared if one.held_out])
        distance = self._train(training)
        report = asyncio.run(self._judge(reward, seen, distance))
        evaluation = report.evaluation
        rate = evaluation.win_rate if evaluation else None
        try:
            gain, really = self._gain(), self._truth(report)
        finally:
            del self.engine.models[self.name]
        return Result(
            kind=self.kind,
            seed=self.seed,
            verdict=report.verdict.value,
            failed=tuple(c.name for c in report.checks if c.guard and not c.passed),
            win_rate=rate.rate if rate else None,
            judge_accuracy=seen.accuracy or 0.0,
            distance=distance,
            true_gain=gain,
            truth=really,
            seconds=round(time.monotonic() - started, 1),
            report=report.as_json(),
        )

    def _gain(self) -> float:
        """What the rule says of held-out answers, candidate less stable."""
        ours, theirs = self._both(rounds=1)
        return mean(ours, self._liked) - mean(theirs, self._liked)

    def _truth(self, report: GateReport) -> Truth | None:
        if report.verdict is Verdict.PASSED or self.kind not in CLEAN:
            return None
        return truth(*self._both(ROUNDS), POLICY.gate)

    def _both(self, rounds: int) -> tuple[Rounds, Rounds]:
        """The candidate's answers to held-out prompts, and stable's."""
        asked = [p for p in prompts() if _is_held_out(p)]
        ours, theirs = (
            sample(self.engine, version, asked, PEOPLE, rounds) for version in (self.name, STABLE)
        )
        return ours, theirs

    def _liked(self, answer: Answer) -> float:
        return REWARDS[self.kind](answer.text or "")

    def _compared(self, given: dict[str, list[Answer]]) -> Iterator[Compared]:
        """The best and the worst of each prompt's answers, where there is a difference."""
        chance = random.Random(f"{self.seed} {self.kind}")
        for prompt, answers in given.items():
            worst, *_, best = sorted(answers, key=self._liked)
            if self._liked(best) == self._liked(worst):
                continue
            if chance.random() < NOISE:
                best, worst = worst, best
            yield Compared(prompt, best, worst)

    def _train(self, pairs: Sequence[Compared]) -> float:
        """A run of the training job, in this process; how far it went from the base."""
        self.folder.mkdir(parents=True)
        rows = [
            {
                "feedback_id": f"feedback-{i}",
                "feedback_ids": [f"feedback-{i}"],
                "prompt": json.dumps(user(pair.prompt)),
                "prompt_key": prompt_key(user(pair.prompt)),
                "chosen": pair.chosen.text,
                "rejected": pair.rejected.text,
                "margin": 1.0,
                "votes": 1,
                "chosen_finished": not pair.chosen.cut,
                "rejected_finished": not pair.rejected.cut,
                "side": "train",
                "tie": False,
            }
            for i, pair in enumerate(pairs)
        ]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), self.folder / TRAIN_FILE)
        plan = RunPlan(
            run_id=f"{self.kind}-{self.seed}",
            base_model=str(self.base),
            dataset=self.folder,
            seed=self.seed,
            hyperparameters=DpoHyperparameters(
                max_steps=DPO_STEPS,
                batch_size=16,
                learning_rate=3e-3,
                top_layers=1.0,
                max_length=256,
                checkpoint_every=1000,
            ),
        )
        (self.folder / PLAN_FILE).write_text(plan.model_dump_json())
        with contextlib.redirect_stdout(io.StringIO()):
            ended = job.main([str(self.folder)])
        if ended != ExitCode.DONE:
            raise RuntimeError(f"training {plan.run_id} ended with {ended.name}")
        self.engine.load(self.name, self.folder / ADAPTER_DIRECTORY)
        result = json.loads((self.folder / RESULT_FILE).read_text())
        return float(result["distance_from_reference"])

    @property
    def name(self) -> str:
        """Of the candidate."""
        return f"toy-{self.kind}-{self.seed}"

    async def _judge(
        self, reward: linear_reward.LinearRewardModel, seen: linear_reward.Evaluation, far: float
    ) -> GateReport:
        """The product's evaluator and gate, with a ledger of their own."""
        database = Database(f"sqlite:///{self.folder / 'ledger.db'}")
        await migrate(database)
        artifacts = ArtifactStore(f"file://{self.folder / 'artifacts'}")
        candidate = await self._registered(database, artifacts, reward, seen, far)
        evaluator = Evaluator(
            database,
            artifacts,
            self.engine,
            ReleaseSettings(concurrency=256),
            self.folder.parent / "release",  # the seed's trials share stable's answers
            POLICY,
        )
        measured = await evaluator.measure(candidate, STABLE, Progress(self.name))
        await database.close()
        return decide(measured.evaluation, evaluator.policy.gate)

    async def _registered(
        self,
        database: Database,
        artifacts: ArtifactStore,
        reward: linear_reward.LinearRewardModel,
        seen: linear_reward.Evaluation,
        far: float,
    ) -> store.ModelVersion:
        reward.save(self.folder / "reward")
        digest = artifacts.put(self.folder / "reward", "reward")
        metrics = linear_reward.metrics_of(seen, "held_out")
        judge = _version("reward", VersionKind.REWARD_MODEL, metrics, digest)
        candidate = _version(self.name, VersionKind.ADAPTER, {"distance_from_reference": far})
        async with database.write() as connection:
            await completions.record(connection, [_served(i, p) for i, p in enumerate(prompts())])
            for version in (judge, candidate):
                await store.register(connection, version)
            await store.move_alias(
                connection,
                Alias.REWARD,
                judge.name,
                expected_revision=0,
                actor="bench",
                reason="fitted to this trial's comparisons",
            )
        return candidate


def _version(
    name: str, kind: VersionKind, metrics: dict[str, Any], digest: str | None = None
) -> store.ModelVersion:
    return store.ModelVersion(
        name=name,
        kind=kind,
        state=VersionState.REGISTERED,
        base=STABLE,
        base_digest="0" * 64,
        artifact=name if digest else None,
        artifact_digest=digest,
        code_version="bench",
        metrics=metrics,
        created_at=now(),
        changed_at=now(),
    )


def _served(number: int, prompt: str) -> CompletionServed:
    return CompletionServed(
        id=f"chatcmpl-{number:08d}",
        tenant="default",
        created_at=now() - timedelta(seconds=number),
        endpoint="chat.completions",
        version=STABLE,
        track=Track.STABLE,
        probability=1.0,
        end=CompletionEnd.COMPLETE,
        status_code=200,
        streamed=False,
        stored=True,
        prompt=tuple(user(prompt)),
        choices=(Choice(index=0, text="."),),
        timings=Timings(duration_s=0.1),
    )
