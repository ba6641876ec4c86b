"""Measures a candidate against stable: asks both, lets the judges compare, and gathers it all."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from learnback.contracts.models import VersionKind
from learnback.core.errors import Unprocessable
from learnback.core.settings import HELD_OUT_SHARE
from learnback.ledger.database import Database
from learnback.ledger.evaluation import (
    HeldOutComparison,
    HeldOutPrompt,
    held_out_comparisons,
    held_out_prompts,
)
from learnback.ledger.evaluations import Pair
from learnback.ledger.keys import KeyRing
from learnback.models.reward import RewardModels
from learnback.registry import copies, store
from learnback.registry.artifacts import ArtifactStore
from learnback.release import golden_checks, probing
from learnback.release.answers import AnswerCache
from learnback.release.asker import Asker, shows_examples
from learnback.release.engine import Answering, Sampling
from learnback.release.evaluation import Round, compare, generate, pairs_of
from learnback.release.gate import preconditions
from learnback.release.golden import GoldenSet, read_golden
from learnback.release.judging import find_judge, load_judge
from learnback.release.measured import Evaluation
from learnback.release.policy import GoldenPolicy, ReleasePolicy
from learnback.release.progress import Progress
from learnback.release.questions import Question, Side, of_prompts
from learnback.release.second import Judging
from learnback.release.settings import ReleaseSettings

DISTANCE = "distance_from_reference"


@dataclass(frozen=True)
class Measured:
    """What was measured, and the answers that it was measured on."""

    evaluation: Evaluation
    pairs: list[Pair] = field(default_factory=list)


class Evaluator:
    """Everything that measuring takes. Reads the golden set at once: mistakes show early."""

    def __init__(
        self,
        database: Database,
        artifacts: ArtifactStore,
        engine: Answering,
        settings: ReleaseSettings,
        folder: Path,
        policy: ReleasePolicy,
        held_out_share: float = HELD_OUT_SHARE,
        judging: Judging | None = None,
        models: RewardModels | None = None,
        asker: Asker | None = None,
    ) -> None:
        self.database = database
        self.artifacts = artifacts
        self.engine = engine
        self.settings = settings
        self.policy = policy
        self.held_out_share = held_out_share
        self.second = judging.second if judging else None
        self.rate = judging.rate if judging else None
        self.models = models or RewardModels()
        self.asker = asker or Asker(KeyRing(database))
        self.judges = folder / "judges"
        self.cache = AnswerCache(folder / "answers")
        self.golden = _golden(policy.golden) if policy.golden else None
        if self.golden is not None and self.golden.needs_judge and judging is None:
            raise Unprocessable("The golden set has checks by a judge; the policy names no judge.")

    async def measure(
        self, candidate: store.ModelVersion, stable: str, progress: Progress
    ) -> Measured:
        """All that the gate decides by; with a note where it is known to be in vain."""
        chosen = await find_judge(self.database, candidate, self.policy.gate.min_judge_accuracy)
        base = Evaluation(
            candidate=candidate.name,
            stable=stable,
            kind=candidate.kind,
            judge=chosen.facts if chosen else None,
            distance=await self._distance(candidate),
            golden_asked=self.policy.golden is not None,
            max_regressions=self.policy.golden.max_regressions if self.policy.golden else 0,
        )
        failed = [c.name for c in preconditions(base, self.policy.gate) if not c.passed]
        if failed or chosen is None:
            note = f"no answers were generated, since {', '.join(failed)} failed"
            return Measured(base.model_copy(update={"note": note}))
        prompts = await self._prompts(candidate, stable)
        problem = await self._problem(prompts)
        if problem is not None:
            return Measured(base.model_copy(update={"note": problem}))
        judge = await load_judge(chosen, self.artifacts, self.judges, self.models)
        await asyncio.to_thread(copies.tidy, self.judges)
        sides = await self._answers(candidate.name, stable, prompts, progress)
        progress.begin("scoring")
        probed = await self._probed(base, sides)
        found = await asyncio.to_thread(compare, probed, sides, prompts, judge.model, 0)
        if self.second is not None:
            people = await self._people()
            opinion = await self.second.opinion(found, sides, prompts, people)
            found = found.model_copy(update={"second": opinion})
        return Measured(found, pairs_of(found, sides, prompts))

    async def _answers(
        self, candidate: str, stable: str, prompts: Sequence[HeldOutPrompt], progress: Progress
    ) -> tuple[Side, Side]:
        questions = self._questions(prompts)
        self.cache.keep_only([candidate, stable], [q.cache_key for q in questions])
        work = Round(self.engine, self.cache, self.settings.concurrency, progress)
        return await generate(candidate, stable, questions, work)

    def _questions(self, prompts: Sequence[HeldOutPrompt]) -> list[Question]:
        """Everything that is asked of both."""
        sampling = Sampling(self.settings.temperature, self.settings.max_tokens)
        asked = [*of_prompts(prompts, sampling), *probing.questions(self.policy.gate.probes)]
        if self.golden is not None and self.policy.golden is not None:
            asked += golden_checks.questions(self.golden, self.policy.golden.repeats)
        return asked

    async def _probed(self, base: Evaluation, sides: tuple[Side, Side]) -> Evaluation:
        """What probes and golden set say."""
        contrasts, not_offered = probing.contrasts(self.policy.gate.probes, sides)
        update: dict[str, object] = {"contrasts": contrasts, "not_offered": not_offered}
        if self.golden is not None and self.policy.golden is not None:
            update["golden"] = await golden_checks.judge_golden(
                self.golden, self.policy.golden.repeats, sides, self.rate
            )
        return base.model_copy(update=update)

    async def _prompts(self, candidate: store.ModelVersion, stable: str) -> list[HeldOutPrompt]:
        """What is asked; without the tenants where it makes no difference who asks."""
        async with self.database.read() as connection:
            found = await held_out_prompts(connection, self.settings.prompts, self.held_out_share)
            replaced = await store.find(connection, stable)
        if not (shows_examples(candidate) or shows_examples(replaced)):
            return [replace(prompt, tenant=None) for prompt in found]
        return found

    async def _problem(self, prompts: Sequence[HeldOutPrompt]) -> str | None:
        """Why asking these would be in vain."""
        least = self.policy.gate.min_prompts
        if len(prompts) < least:
            return f"there are {len(prompts)} held-out prompts, {least} are needed"
        problem = await self.asker.problem(prompts)
        return f"no answers were generated: {problem}" if problem else None

    async def _people(self) -> list[HeldOutComparison]:
        limit = self.policy.judge.pairs if self.policy.judge else 0
        async with self.database.read() as connection:
            return await held_out_comparisons(connection, limit, self.held_out_share)

    async def _distance(self, candidate: store.ModelVersion) -> float | None:
        """Of the weights; a prompt strategy has those of its parent, which on a base is none."""
        own = candidate.metrics.get(DISTANCE)
        if own is not None or candidate.kind is not VersionKind.PROMPT:
            return own
        if candidate.parent is None:
            return 0.0
        async with self.database.read() as connection:
            parent = await store.find(connection, candidate.parent)
        if parent is None or parent.kind is VersionKind.BASE:
            return 0.0 if parent else None
        return parent.metrics.get(DISTANCE)


def _golden(policy: GoldenPolicy) -> GoldenSet:
    """The set that a policy names, or holds. Unprocessable says what is wrong with it."""
    if policy.file is not None:
        return read_golden(policy.file)
    return GoldenSet(items=policy.items or (), folder=Path())
