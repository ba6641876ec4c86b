"""What ends a policy-gradient run early: drift, or numbers that can't be trusted. Pure.

Drift ends it with what was good before; the rest is a failure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from learnback.retraining.plan import RlooHyperparameters
from learnback.retraining.trainers.failures import Diverged


def drift_of(
    metrics: Mapping[str, float], base_length: float, settings: RlooHyperparameters
) -> str:
    """Why a run must end here; empty while it may go on."""
    if metrics["kl"] > settings.kl_stop:
        return f"the KL is {metrics['kl']:.1f} nats an answer, over {settings.kl_stop:g}"
    ratio = metrics["answer_tokens"] / max(base_length, 1.0)
    if not 1 / settings.length_stop <= ratio <= settings.length_stop:
        return (
            f"answers have {metrics['answer_tokens']:.1f} tokens, those of the base model "
            f"{base_length:.1f}: more than {settings.length_stop:g} times apart"
        )
    return ""


def check(metrics: Mapping[str, float], mismatch_stop: float, step: int) -> None:
    """Raises Diverged if a number is none, or sampler and trainer are too far apart."""
    if not all(math.isfinite(metrics[name]) for name in ("loss", "grad_norm", "kl")):
        raise Diverged(f"the loss or the gradient is not finite at step {step}")
    if metrics["mismatch"] > mismatch_stop:
        raise Diverged(
            f"sampler and trainer differ by {metrics['mismatch']:.3f} nats a token at step {step}, "
            f"over {mismatch_stop:g}: do both have the same base model, precision and adapter?"
        )
