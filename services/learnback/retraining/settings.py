"""Settings of the retraining process."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from learnback.core.settings import Settings
from learnback.retraining.choice import Chosen, Sizes
from learnback.retraining.hyperparameters import (
    DpoHyperparameters,
    Hyperparameters,
    KtoHyperparameters,
    Method,
    RewardHyperparameters,
    RlooHyperparameters,
    SftHyperparameters,
)


class RetrainingSettings(Settings):
    """`LEARNBACK_RETRAINING_*`, or the table `[retraining]`."""

    model_config = SettingsConfigDict(env_prefix="LEARNBACK_RETRAINING_")
    table: ClassVar[str] = "retraining"

    host: str = "127.0.0.1"
    """Address to listen on; beyond loopback API keys are required."""
    port: int = 8003
    """TCP port."""
    automatic: bool = True
    """Train when enough new signals wait; False: only when asked."""
    min_new_signals: int = Field(64, ge=1)
    """Usable, not held-out signals that start a run; fewer teach a small model little."""
    cool_down: timedelta = timedelta(minutes=1)
    """Rest between runs, so that a flood of signals does not train without pause."""
    held_out_raters: float = Field(0.1, ge=0, lt=1)
    """Share of raters kept for evaluation, once there are ten."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Of runs that were not asked for with one of their own."""
    hyperparameters: DpoHyperparameters = DpoHyperparameters()
    """Of DPO runs that were not asked for with their own; of the other methods see below."""
    threads: int = Field(0, ge=0)
    """CPU threads of a training run; 0: half of the cores, so that serving keeps the rest."""
    niceness: int = Field(5, ge=0, le=19)
    """Added to the priority number of a training run, so that serving goes first."""
    max_retries: int = Field(3, ge=0)
    """How often a run that broke off is started again; a run with bad data never is."""
    job_command: list[str] = []
    """What is run with the run's folder as last argument; empty: our own training job."""
    job_template: Path | None = None
    """File with a Kubernetes Job, JobSet or TrainJob as JSON that each run is made from; empty: a
    run is a process of this machine."""
    poll: timedelta = timedelta(seconds=1)
    """How often a running job's progress is read."""
    grace: timedelta = timedelta(seconds=15)
    """How long a job may take to save a checkpoint when this process stops; then it is killed."""

    @property
    def job_threads(self) -> int:
        """`threads` with its default filled in."""
        return self.threads or max(1, (os.cpu_count() or 2) // 2)


class MethodSettings(Settings):
    """`LEARNBACK_RETRAINING_*` as well, or the table `[retraining_method]`: which method trains."""

    model_config = SettingsConfigDict(env_prefix="LEARNBACK_RETRAINING_")
    table: ClassVar[str] = "retraining_method"

    method: Chosen | None = None
    """`sft`, `dpo`, `kto`, `reward_model`, `rloo` or `prompt`, always; empty: the one that fits
    what people said. With `rloo` each run is preceded by one of the reward model."""
    pairs_for_reward_model: int = Field(500, ge=1)
    """Pairs from which on a neural reward model is trained by itself, and again once pairs have
    doubled; fewer are better served by the linear one."""
    pairs_for_rloo: int = Field(2_000, ge=1)
    """Pairs from which on a policy is optimised against the reward model, if that is good."""
    prompts_for_rloo: int = Field(200, ge=1)
    """Distinct prompts with stored answers that it takes besides."""
    sft: SftHyperparameters = SftHyperparameters()
    """Hyperparameters of supervised runs."""
    kto: KtoHyperparameters = KtoHyperparameters()
    """Of KTO runs."""
    reward_model: RewardHyperparameters = RewardHyperparameters()
    """Of runs that train a reward model."""
    rloo: RlooHyperparameters = RlooHyperparameters()
    """Of policy gradient runs."""

    @property
    def sizes(self) -> Sizes:
        """What the choice goes by."""
        return Sizes(self.pairs_for_reward_model, self.pairs_for_rloo, self.prompts_for_rloo)

    def hyperparameters(self, method: Method, dpo: DpoHyperparameters) -> Hyperparameters:
        """Of runs by `method` that were not asked for with their own."""
        found: Hyperparameters = dpo if method == "dpo" else getattr(self, method)
        return found


class FilterSettings(Settings):
    """`LEARNBACK_RETRAINING_FILTER_*`, or the table `[retraining_filter]`: what is good enough to
    learn from. What is left out keeps its reason in the ledger."""

    model_config = SettingsConfigDict(env_prefix="LEARNBACK_RETRAINING_FILTER_")
    table: ClassVar[str] = "retraining_filter"

    min_votes: int = Field(1, ge=1)
    """Independent raters that a pair or a label needs; until then its signals wait. All signals
    without rater together count as one. A correction stands for itself."""
    min_top_votes: int = Field(3, ge=1)
    """Independent raters that an answer needs before it is imitated; GPT-2's WebText took pages
    with at least three."""
    top: float = Field(0.75, gt=0.5, le=1)
    """Mean of the raters, from 0 to 1, from which an answer is imitated."""
    min_gap: float = Field(0.5, gt=0, le=1)
    """How much better, from 0 to 1, raters must like one of two answers to a prompt before the two
    become a pair: two steps on a scale from 1 to 5."""
    center_from: int = Field(8, ge=2)
    """Ratings from which on a rater's are read against that rater's own mean."""
    min_item_agreement: float = Field(0.0, ge=0, le=1)
    """Share of an item's raters who must agree, above a majority; else it is quarantined."""
    min_rater_agreement: float = Field(0.0, ge=0, le=1)
    """How often a rater must agree with the others who judged the same; else all that this rater
    said is quarantined. 0: nobody is."""
    min_rater_overlap: int = Field(10, ge=1)
    """Items shared with others before a rater's agreement is looked at."""
    max_rater_share: float = Field(0.25, gt=0, le=1)
    """Largest share of all signals that one rater may have, once there are ten raters; more of
    them wait. Signals without rater are not capped."""
    max_resemblance: float = Field(0.8, ge=0.5, le=1)
    """Share of three-word runs, in each message of the prompt and in each answer, above which one
    of two rows is left out; and above which no prompt is trained on that resembles a held-out one.
    As arXiv:2107.06499 has it; 1: nothing is too alike."""
    min_answer_characters: int = Field(1, ge=1)
    """Shorter answers are left out."""
    max_answer_characters: int = Field(20_000, ge=1)
    """Longer answers are left out: 5,000 tokens or so."""
    max_prompt_characters: int = Field(50_000, ge=1)
    """Longer prompts are left out."""
    languages: list[str] = []
    """ISO 639-1 codes of languages to learn from, such as `["en", "de"]`; empty: all."""
