"""How much of everything fits into the minutes that were given. Pure."""

from __future__ import annotations

from dataclasses import dataclass

COLLECT, EVALUATE, SFT, DPO, KTO, RLOO, CURVE = 0.10, 0.26, 0.06, 0.12, 0.12, 0.17, 0.17
"""Shares of the budget; they add up to 1."""
ANSWERS_EACH = 4
"""Answers to a labelled prompt: six comparisons (as InstructGPT, arXiv:2203.02155, sec. 3.5)."""
KEPT_FOR_MEASURING = 120
"""Prompts that no method ever sees."""
BATCH = 8
"""Rows of a training step."""
CURVE_BETAS = (0.0, 0.3)
"""Beside the rung itself, whose beta is controlled."""
POLICY = (4, 4)
"""Prompts a step of RLOO, and answers to each: small steps, since there is time for few."""
KL_ANSWERS = 16
"""Answers on which a rung's KL is measured; reading costs as much as writing."""
RUN_ANSWERS, RUN_READS = 30, 70
"""Answers written and read beside training, for a run's report and checkpoints."""


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

    @property
    def run_s(self) -> float:
        """What a training run costs beside its steps."""
        return self.start_s + RUN_ANSWERS * self.answer_s + RUN_READS * self.read_s


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
    labelled = _between(32, COLLECT * budget_s / answer, 160)
    reading = 2 * KL_ANSWERS * speed.read_s
    each = 1.5 * speed.answer_s  # with half a made-up task
    measured = _between(32, (EVALUATE * budget_s / rungs - reading) / each, KEPT_FOR_MEASURING)
    pair = 2 * (speed.learn_s + speed.read_s)
    label = speed.learn_s + 3 * speed.read_s  # the KL term of KTO reads a batch twice more
    rollout = POLICY[0] * POLICY[1] * (speed.answer_s + speed.learn_s + speed.read_s)
    return Sizes(
        labelled_prompts=labelled,
        measured_prompts=measured,
        tasks=_between(16, measured / 4, 30),
        sft_steps=_steps(SFT * budget_s, speed, BATCH * speed.learn_s, 60),
        dpo_steps=_steps(DPO * budget_s, speed, BATCH * pair, 60),
        kto_steps=_steps(KTO * budget_s, speed, BATCH * label, 80),
        rloo_steps=_steps(RLOO * budget_s, speed, rollout, 80),
        curve_steps=_steps(CURVE * budget_s / len(CURVE_BETAS), speed, rollout, 60),
    )


def _steps(seconds: float, speed: Speed, step_s: float, most: int) -> int:
    return _between(4, (seconds - speed.run_s) / step_s, most)


def _between(least: int, wanted: float, most: int) -> int:
    return max(least, min(most, int(wanted)))
