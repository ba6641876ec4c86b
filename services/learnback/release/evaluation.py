"""Stable and candidate answer the same held-out prompts, and the reward model compares."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from learnback.core.errors import Unavailable
from learnback.ledger.evaluation import HeldOutPrompt
from learnback.models.linear_reward import LinearRewardModel
from learnback.release import metrics
from learnback.release.analysis import outcome, win_rate
from learnback.release.answers import AnswerCache, answer_key
from learnback.release.engine import Answer, CandidateFailing, Engine, Sampling, seed_of
from learnback.release.gate import Evaluation
from learnback.release.probes import profile
from learnback.release.progress import Progress

MAX_FAILED = 0.2
"""Share of stable's answers that may fail; above it the engine is ill, and nobody is judged."""


@dataclass
class Side:
    """One version's answers by prompt key."""

    version: str
    label: str
    answers: dict[str, Answer] = field(default_factory=dict)

    def texts(self, prompts: Sequence[HeldOutPrompt]) -> dict[str, str]:
        """What was answered."""
        found = {p.key: self.answers[p.key].text for p in prompts if p.key in self.answers}
        return {key: text for key, text in found.items() if text is not None}


@dataclass(frozen=True)
class Round:
    """What an evaluation works with."""

    engine: Engine
    cache: AnswerCache
    sampling: Sampling
    concurrency: int
    progress: Progress


async def generate(
    candidate: str, stable: str, prompts: Sequence[HeldOutPrompt], work: Round
) -> tuple[Side, Side]:
    """All answers of both, interleaved, so that load and time of day hit both the same.

    Raises Unavailable if the engine fails on stable, CandidateFailing if only on the candidate.
    """
    ours, theirs = Side(candidate, "candidate"), Side(stable, "stable")
    work.progress.begin("loading", total=2 * len(prompts))
    for side in (theirs, ours):
        _take_cached(side, prompts, work)
    await _wait_served(ours, theirs, prompts, work)
    work.progress.begin("generating")
    jobs = _interleaved(prompts, theirs, ours)
    await asyncio.gather(*(_work_off(jobs, work) for _ in range(work.concurrency)))
    _check_health(ours, theirs, prompts)
    return ours, theirs


def compare(
    base: Evaluation,
    sides: tuple[Side, Side],
    prompts: Sequence[HeldOutPrompt],
    judge: LinearRewardModel,
    seed: int,
) -> Evaluation:
    """Score both sides' answers and count; `base` says who is compared. Pure."""
    ours, theirs = (side.texts(prompts) for side in sides)
    both = [p for p in prompts if p.key in theirs and p.key in ours]
    outcomes = [
        outcome(judge.score(p.messages, ours[p.key]), judge.score(p.messages, theirs[p.key]))
        for p in both
    ]
    return base.model_copy(
        update={
            "prompts": len(theirs),
            "answered": len(both),
            "wins": outcomes.count(1.0),
            "ties": outcomes.count(0.5),
            "losses": outcomes.count(0.0),
            "win_rate": win_rate(outcomes, seed=seed),
            "candidate_answers": profile([ours[p.key] for p in both]),
            "stable_answers": profile([theirs[p.key] for p in both]),
        }
    )


def _take_cached(side: Side, prompts: Sequence[HeldOutPrompt], work: Round) -> None:
    cached = work.cache.load(side.version)
    for prompt in prompts:
        text = cached.get(answer_key(prompt.key, work.sampling.as_parameters()))
        if text is not None:
            side.answers[prompt.key] = Answer(text)
            metrics.ANSWERS.labels(side.label, "cached").inc()
            work.progress.step(generated=False)


async def _wait_served(
    ours: Side, theirs: Side, prompts: Sequence[HeldOutPrompt], work: Round
) -> None:
    """Stable first: if that fails too, it is not the candidate's fault."""
    for side, error in ((theirs, Unavailable), (ours, CandidateFailing)):
        if len(side.answers) < len(prompts):
            reason = await work.engine.wait_served(side.version)
            if reason:
                raise error(f"Inference does not answer with {side.version}: {reason}")


def _interleaved(
    prompts: Sequence[HeldOutPrompt], *sides: Side
) -> Iterator[tuple[HeldOutPrompt, Side]]:
    for prompt in prompts:
        for side in sides:
            if prompt.key not in side.answers:
                yield prompt, side


async def _work_off(jobs: Iterator[tuple[HeldOutPrompt, Side]], work: Round) -> None:
    for prompt, side in jobs:
        answer = await work.engine.answer(
            side.version, prompt.messages, work.sampling, seed_of(prompt.key)
        )
        side.answers[prompt.key] = answer
        failed = answer.text is None
        if answer.text is not None:
            key = answer_key(prompt.key, work.sampling.as_parameters())
            work.cache.add(side.version, key, answer.text)
        metrics.ANSWERS.labels(side.label, "failed" if failed else "generated").inc()
        work.progress.step(generated=True, failed=failed)


def _check_health(ours: Side, theirs: Side, prompts: Sequence[HeldOutPrompt]) -> None:
    """A prompt that is refused (too long, say) is left out; an engine that fails is no verdict."""
    for side, error in ((theirs, Unavailable), (ours, CandidateFailing)):
        broken = [a.error for a in side.answers.values() if a.text is None and not a.refused]
        if len(broken) > MAX_FAILED * len(prompts):
            raise error(
                f"{len(broken)} of {len(prompts)} answers of {side.version} failed: {broken[0]}"
            )
