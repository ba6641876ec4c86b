"""What each training method can be told, without torch: one class a method, on one base."""

from __future__ import annotations

import math
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

Method = Literal["sft", "dpo", "kto", "reward_model", "rloo"]

FULL_LEARNING_RATE = 2e-5
"""Peak for full weights where none is given: adapters bear some tens of times more
(thinkingmachines.ai/blog/lora measured ten; small ranks and small models more).
"""


class Hyperparameters(BaseModel):
    """What all methods share: which weights learn, how fast, and how long."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    adaptation: Literal["lora", "full"] = "lora"
    """`lora` trains an adapter, `full` every weight; a full run publishes a model, not an
    adapter.
    """
    lora_rank: PositiveInt = 16
    """Rank of the adapter; ignored when a parent adapter is continued, which keeps its own."""
    lora_alpha: PositiveInt = 32
    """The adapter is scaled by alpha / rank."""
    target_modules: tuple[str, ...] = Field(
        default=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        min_length=1,
    )
    """Linear layers that get an adapter, by the end of their name; all of them learn best
    (arXiv:2305.14314, sec. 4).
    """
    top_layers: float = Field(default=0.5, gt=0, le=1)
    """Share of the layers, from the top, that get an adapter; below them nothing is
    differentiated, which saves time.
    """
    learning_rate: PositiveFloat = 5e-4
    """Peak of the schedule, per step of AdamW."""
    warmup_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps in which the learning rate rises from 0; after them it falls linearly
    to 0.
    """
    epochs: PositiveFloat = 1.0
    """Passes over the data; unused when max_steps is set."""
    max_steps: PositiveInt | None = None
    """Optimiser steps; overrides epochs."""
    batch_size: PositiveInt = 8
    """Rows per forward pass, in all processes together."""
    gradient_accumulation: PositiveInt = 1
    """Forward passes per optimiser step."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are clipped to this norm."""
    max_length: PositiveInt = 1024
    """Tokens of prompt and answer together; longer rows are skipped and counted, never cut."""
    gradient_checkpointing: bool = False
    """Half the memory for a third more time; needed only for large models."""
    checkpoint_every: PositiveInt = 10
    """Optimiser steps between checkpoints: what kill -9 can cost."""
    bfloat16: bool = False
    """Multiply in bfloat16 on a CPU too, with the trained weights in float32. Where the CPU has
    AVX512_BF16 a pass takes six tenths of the time; without it, several times as long.
    """

    def steps(self, rows: int) -> int:
        """Optimiser steps of a run over ``rows`` rows."""
        if self.max_steps is not None:
            return self.max_steps
        per_epoch = math.ceil(rows / (self.batch_size * self.gradient_accumulation))
        return max(1, math.ceil(per_epoch * self.epochs))

    @model_validator(mode="before")
    @classmethod
    def _slower_for_all_weights(cls, given: Any) -> Any:
        """Nobody who only asks for full weights means an adapter's learning rate."""
        if isinstance(given, dict) and given.get("adaptation") == "full":
            return {"learning_rate": FULL_LEARNING_RATE, **given}
        return given


class SftHyperparameters(Hyperparameters):
    """Supervised fine-tuning on answers that people corrected or rated best; the loss is taken
    over the answers only (instruction tuning: arXiv:2109.01652).
    """


class DpoHyperparameters(Hyperparameters):
    """Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290), with a supervised
    term.

    The loss is ``-log sigmoid(beta * (chosen log-ratio - rejected log-ratio)) + sft_weight *
    NLL(chosen)``; the second term holds up the probability of the chosen answers (RPO:
    arXiv:2404.19733, eq. 1). ``loss="ipo"`` takes a square in the place of the sigmoid.
    """

    loss: Literal["sigmoid", "ipo"] = "sigmoid"
    """`ipo` does not drift further the more certain a preference is (arXiv:2310.12036, eq. 17)."""
    learning_rate: PositiveFloat = 8e-4
    """Peak of the schedule, per step of AdamW."""
    beta: PositiveFloat = 0.2
    """How dear it is to leave the reference: higher stays closer. For `ipo` 1 / (2 beta) is the
    gap aimed for, in nats per token.
    """
    sft_weight: float = Field(default=0.2, ge=0)
    """Weight of the supervised term, in nats per token; 0 is plain DPO."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """The share of labels presumed wrong (conservative DPO); for `sigmoid` only."""

    @model_validator(mode="after")
    def _smoothing_needs_sigmoid(self) -> Self:
        if self.loss == "ipo" and self.label_smoothing > 0:
            raise ValueError("label_smoothing is defined for the loss 'sigmoid' only")
        return self


class KtoHyperparameters(Hyperparameters):
    """Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv:2402.01306) on answers that
    were liked or disliked, without pairs.
    """

    beta: PositiveFloat = 0.2
    """How dear it is to leave the reference: higher stays closer."""
    desirable_weight: PositiveFloat | None = None
    """Weight of a liked answer's loss. Both left out: the rarer kind is weighted up until both
    count the same (sec. 4.2).
    """
    undesirable_weight: PositiveFloat | None = None
    """Weight of a disliked answer's loss."""
    batch_size: int = Field(default=8, ge=2)
    """Rows per forward pass, in all processes together; each process needs two, since the distance
    from the reference is estimated on the batch.
    """


class RewardHyperparameters(Hyperparameters):
    """A Bradley-Terry reward model on the base model, with ties and margins.

    An answer wins with probability ``sigmoid(difference - margin * strength)``; the two tie with
    what is left at full strength (Rao and Kupper 1967, JASA 62:194-204). The reward is centred
    (arXiv:2312.09244, eq. 2) and its temperature is fitted on held-out pairs.
    """

    epochs: PositiveFloat = 2.0
    """Passes over the data; unused when max_steps is set."""
    margin: PositiveFloat = 0.5
    """Difference in reward below which people are presumed to see none, in logits; a preference
    of full strength must exceed it (as arXiv:2307.09288, eq. 2).
    """
    centering: float = Field(default=0.01, ge=0)
    """Weight of the squared sum of a pair's rewards, which keeps their mean near 0."""


class RlooHyperparameters(Hyperparameters):
    """Policy gradient with a leave-one-out baseline (Ahmadian et al. 2024, arXiv:2402.14740).

    `epochs` are passes over the prompts, `batch_size` is answers per forward pass, and at every
    `checkpoint_every` steps held-out prompts are asked, to pick the checkpoint that is published.
    `gradient_accumulation` is unused: a step learns from all its answers.
    """

    learning_rate: PositiveFloat = 3e-4
    """Peak of the schedule, per step of AdamW."""
    prompts_per_step: PositiveInt = 8
    """Prompts that each step asks."""
    rollouts: int = Field(default=4, ge=2)
    """Answers per prompt; each one's baseline is the mean reward of the others."""
    max_new_tokens: PositiveInt = 64
    """Tokens of a rollout. Sampled at temperature 1, as the gradient assumes."""
    beta: float = Field(default=0.1, ge=0)
    """What a nat of KL from the base model costs, in reward; where control begins."""
    kl_target: PositiveFloat | None = 8.0
    """Nats per answer that beta is steered to; None keeps beta as it is."""
    kl_gain: PositiveFloat = 0.5
    """How strongly beta reacts (arXiv:1909.08593, sec. 2.2, took 0.1 for far longer runs)."""
    kl_stop: PositiveFloat = 40.0
    """Nats per answer beyond which the run ends with what it had before."""
    length_stop: float = Field(default=4.0, gt=1)
    """The run ends as well when answers are so many times longer or shorter than the base's."""
    mismatch_stop: PositiveFloat = 0.1
    """Mean difference of the sampler's and the trainer's log-probabilities, in nats per token,
    beyond which the run fails: the two then have different weights.
    """
    exact_kl: bool = True
    """Measure the KL over the whole vocabulary; else from the sampled tokens, with less memory."""
    evaluation_prompts: PositiveInt = 32
    """Held-out prompts that are asked at each checkpoint."""
    rollout_batch_size: PositiveInt = 32
    """Answers sampled together, where the job samples itself."""
    engine_url: str | None = Field(default=None, pattern=r"^https?://")
    """A vLLM of the run's own that samples instead, with runtime LoRA updating on and the run's
    folder under the same path; never the one that serves people.
    """

    def steps(self, rows: int) -> int:
        """Optimiser steps of a run over ``rows`` prompts."""
        if self.max_steps is not None:
            return self.max_steps
        return max(1, math.ceil(self.epochs * rows / self.prompts_per_step))

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.kl_target is not None and self.beta == 0:
            raise ValueError("beta 0 can't be steered to a kl_target: give a beta, or no target")
        if self.engine_url is not None and self.adaptation == "full":
            raise ValueError("an engine samples from adapters: full weights need no engine_url")
        return self


HYPERPARAMETERS: dict[str, type[Hyperparameters]] = {
    "sft": SftHyperparameters,
    "dpo": DpoHyperparameters,
    "kto": KtoHyperparameters,
    "reward_model": RewardHyperparameters,
    "rloo": RlooHyperparameters,
}
