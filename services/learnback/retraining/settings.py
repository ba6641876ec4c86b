"""Settings of the retraining process."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from learnback.core.settings import Settings
from learnback.retraining.plan import DpoHyperparameters


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
    """Of runs that were not asked for with their own."""
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
