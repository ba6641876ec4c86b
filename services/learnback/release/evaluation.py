"""Stable and candidate answer the same questions, and the reward model compares."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from learnback.core.errors import Unavailable
from learnback.ledger.evaluation import HeldOutPrompt
from learnback.ledger.evaluations import Pair
from learnback.models.language import is_one_of
from learnback.models.text_features import words_of
from learnback.release import metrics
from learnback.release.analysis import Contrast, more_often, outcome, win_rate
from learnback.release.answers import AnswerCache
from learnback.release.engine import Answering, CandidateFailing, seed_of
from learnback.release.judging import Scoring
from learnback.release.measured import Evaluation
from learnback.release.probes import INDICATORS, novelty, profile
from learnback.release.progress import Progress
from learnback.release.questions import Question, Side

MAX_FAILED = 0.2
"""Share of stable's answers that may fail; above it the engine is ill, and nobody is judged."""


@dataclass(frozen=True)
class Round:
    """What an evaluation works with."""

    engine: Answering
    cache: AnswerCache
    concurrency: int
    progress: Progress


async def generate(
    candidate: str, stable: str, questions: Sequence[Question], work: Round
) -> tuple[Side, Side]:
    """All answers of both, interleaved, so that load and time of day hit both the same.

    Raises Unavailable if the engine fails on stable, CandidateFailing if only on the candidate.
    """
    ours, theirs = Side(candidate, "candidate"), Side(stable, "stable")
    work.progress.begin("loading", total=2 * len(questions))
    for side in (theirs, ours):
        _take_cached(side, questions, work)
    await _wait_served(ours, theirs, questions, work)
    work.progress.begin("generating")
    jobs = _interleaved(questions, theirs, ours)
    await asyncio.gather(*(_work_off(jobs, work) for _ in range(work.concurrency)))
    _check_health(ours, theirs, questions)
    return ours, theirs


def compare(
    base: Evaluation,
    sides: tuple[Side, Side],
    prompts: Sequence[HeldOutPrompt],
    judge: Scoring,
    seed: int,
) -> Evaluation:
    """Score both sides' answers and count; `base` says who is compared. Pure."""
    keys = [p.key for p in prompts]
    ours, theirs = (side.texts(keys) for side in sides)
    both = [p for p in prompts if p.key in theirs and p.key in ours]
    answered = [p.key for p in both]
    mine, other = [ours[key] for key in answered], [theirs[key] for key in answered]
    return base.model_copy(
        update={
            "prompts": len(theirs),
            "answered": len(both),
            **_scored(both, ours, theirs, judge, seed),
            "candidate_answers": profile(mine),
            "stable_answers": profile(other),
            "words": [[len(words_of(a)) for a in answers] for answers in (mine, other)],
            "length_ratios": _length_ratios(mine, other),
            "novelty_drops": _novelty_drops(mine, other),
            "foreign": _foreign([*mine, *other]),
            "contrasts": base.contrasts | _contrasts(sides, answered),
        }
    )


def _scored(
    both: Sequence[HeldOutPrompt],
    ours: Mapping[str, str],
    theirs: Mapping[str, str],
    judge: Scoring,
    seed: int,
) -> dict[str, Any]:
    """Who won where, by the rewards. A prompt with an answer that has none is left out."""
    rewards = [
        judge.score_many([(p.messages, texts[p.key]) for p in both]) for texts in (ours, theirs)
    ]
    judged = [
        (p, a, b) for p, a, b in zip(both, *rewards, strict=True) if a is not None and b is not None
    ]
    outcomes = [outcome(a, b) for _, a, b in judged]
    strangers = [won for won, (p, *_) in zip(outcomes, judged, strict=True) if p.stranger]
    return {
        "wins": outcomes.count(1.0),
        "ties": outcomes.count(0.5),
        "losses": outcomes.count(0.0),
        "outcomes": outcomes,
        "rewards": [[round(a, 4) for _, a, _ in judged], [round(b, 4) for *_, b in judged]],
        "keys": [p.key for p, *_ in judged],
        "win_rate": win_rate(outcomes, seed=seed),
        "strangers": win_rate(strangers, seed=seed),
    }


def pairs_of(
    measured: Evaluation, sides: tuple[Side, Side], prompts: Sequence[HeldOutPrompt]
) -> list[Pair]:
    """Both answers to each prompt with their rewards."""
    shown = {p.key: p.messages for p in prompts}
    ours, theirs = (side.texts(measured.keys) for side in sides)
    return [
        Pair(
            prompt_key=key,
            prompt=list(shown[key]),
            candidate=ours[key],
            stable=theirs[key],
            candidate_reward=a,
            stable_reward=b,
        )
        for key, a, b in zip(measured.keys, *measured.rewards, strict=True)
    ]


def _contrasts(sides: tuple[Side, Side], keys: Sequence[str]) -> dict[str, Contrast]:
    """What answers should not be, by the name of its guard."""
    ours, theirs = ([side.answers[key] for key in keys] for side in sides)
    found = {
        name: more_often(
            [is_so(answer.text or "") for answer in ours],
            [is_so(answer.text or "") for answer in theirs],
        )
        for name, is_so in INDICATORS.items()
    }
    found["cut"] = more_often([a.cut for a in ours], [a.cut for a in theirs])
    return {name: contrast for name, contrast in found.items() if contrast is not None}


def _foreign(answers: Sequence[str]) -> float:
    """The share of answers that are not in English."""
    return sum(not is_one_of(answer, {"en"}) for answer in answers) / max(len(answers), 1)


def _length_ratios(ours: Sequence[str], theirs: Sequence[str]) -> list[float]:
    """The candidate's words per stable's, by prompt; no words count as one."""
    return [
        round(max(len(words_of(a)), 1) / max(len(words_of(b)), 1), 4)
        for a, b in zip(ours, theirs, strict=True)
    ]


def _novelty_drops(ours: Sequence[str], theirs: Sequence[str]) -> list[float]:
    """How much less of an answer is its own, by prompt."""
    return [round(b - a, 4) for a, b in zip(novelty(ours), novelty(theirs), strict=True)]


def _take_cached(side: Side, questions: Sequence[Question], work: Round) -> None:
    cached = work.cache.load(side.version)
    for question in questions:
        answer = cached.get(question.cache_key)
        if answer is not None:
            side.answers[question.key] = answer
            metrics.ANSWERS.labels(side.label, "cached").inc()
            work.progress.step(generated=False)


async def _wait_served(
    ours: Side, theirs: Side, questions: Sequence[Question], work: Round
) -> None:
    """Stable first: if that fails too, it is not the candidate's fault."""
    for side, error in ((theirs, Unavailable), (ours, CandidateFailing)):
        if len(side.answers) < len(questions):
            reason = await work.engine.wait_served(side.version)
            if reason:
                raise error(f"Inference does not answer with {side.version}: {reason}")


def _interleaved(questions: Sequence[Question], *sides: Side) -> Iterator[tuple[Question, Side]]:
    for question in questions:
        for side in sides:
            if question.key not in side.answers:
                yield question, side


async def _work_off(jobs: Iterator[tuple[Question, Side]], work: Round) -> None:
    for question, side in jobs:
        answer = await work.engine.answer(
            side.version,
            question.messages,
            question.sampling,
            seed_of(question.key),
            question.extra,
            question.tenant,
        )
        side.answers[question.key] = answer
        failed = answer.text is None
        if not failed:
            work.cache.add(side.version, question.cache_key, answer)
        metrics.ANSWERS.labels(side.label, "failed" if failed else "generated").inc()
        work.progress.step(generated=True, failed=failed)


def _check_health(ours: Side, theirs: Side, questions: Sequence[Question]) -> None:
    """A prompt that is refused (too long, say) is left out; an engine that fails is no verdict."""
    for side, error in ((theirs, Unavailable), (ours, CandidateFailing)):
        broken = [a.error for a in side.answers.values() if a.text is None and not a.refused]
        if len(broken) > MAX_FAILED * len(questions):
            raise error(
                f"{len(broken)} of {len(questions)} answers of {side.version} failed: {broken[0]}"
            )
