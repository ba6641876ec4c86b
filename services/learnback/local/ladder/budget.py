"""How much of everything fits into the minutes that were given. Pure."""

from __future__ import annotations

from dataclasses import dataclass

COLLECT, EVALUATE, SFT, DPO, KTO, RLOO, CURVE = 0.08, 0.26, 0.06, 0.11, 0.11, 0.18, 0.20
"""Shares of the budget; they add up to 1."""
ANSWERS_EACH = 4
"""Answers to a labelled prompt: six comparisons (as InstructGPT, arXiv:2203.02155, sec. 3.5)."""
BATCH = 8
"""Rows of a training step."""
CURVE_BETAS = (0.0, 0.05, 0.5)
LARGE, SMALL = (8, 4), (4, 4)
"""Prompts a step, and answers to each, of the RLOO rung and of the runs of the curve."""


@dataclass(frozen=True)
class Speed:
    """Measured on this machine, with this model."""

    answer_s: float
    """To sample an answer, in a batch."""
    read_s: float
    """To read an answer with its prompt, in a batch: one forward pass."""
    learn_s: float
    """To learn from one: a forward and a backward pass."""
    start_s: float = 0.0
    """To start a training run: libraries and weights."""


@dataclass(frozen=True)
class Sizes:
    """What is done."""

    labelled_prompts: int
    measured_prompts: int
    tasks: int
    """Of each kind."""
    sft_steps: int
    dpo_steps: int
    kto_steps: int
    rloo_steps: int
    curve_steps: int


def sizes(budget_s: float, speed: Speed, rungs: int) -> Sizes:
    """Share the budget out. At least something of everything, so a tiny budget is overrun."""
    answer = ANSWERS_EACH * speed.answer_s
    labelled = _between(24, COLLECT * budget_s / answer, 160)
    # Of each rung: an answer to each prompt, read twice for the KL; a task costs about an answer.
    each = 1.5 * (speed.answer_s + 2 * speed.read_s)
    measured = _between(12, EVALUATE * budget_s / (rungs * each), 120)
    pair = 2 * (speed.learn_s + speed.read_s)
    label = speed.learn_s + 3 * speed.read_s  # the KL term of KTO reads a batch twice more
    return Sizes(
        labelled_prompts=labelled,
        measured_prompts=measured,
        tasks=_between(4, measured / 4, 20),
        sft_steps=_steps(SFT * budget_s, speed.start_s, BATCH * speed.learn_s, 60),
        dpo_steps=_steps(DPO * budget_s, speed.start_s, BATCH * pair, 60),
        kto_steps=_steps(KTO * budget_s, speed.start_s, BATCH * label, 80),
        rloo_steps=_steps(RLOO * budget_s, speed.start_s, _policy_step(LARGE, speed), 80),
        curve_steps=_steps(
            CURVE * budget_s / len(CURVE_BETAS), speed.start_s, _policy_step(SMALL, speed), 60
        ),
    )


def _policy_step(shape: tuple[int, int], speed: Speed) -> float:
    prompts, samples = shape
    return prompts * samples * (speed.answer_s + speed.learn_s + speed.read_s)


def _steps(seconds: float, start_s: float, step_s: float, most: int) -> int:
    return _between(4, (seconds - start_s) / step_s, most)


def _between(least: int, wanted: float, most: int) -> int:
    return max(least, min(most, int(wanted)))
