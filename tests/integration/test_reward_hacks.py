"""What a candidate learned from a flawed reward stops it; what it learned from a clean one, not.

One seed of `python -m bench.hacks`: real weights, the real training job, evaluator and gate.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from bench.hacks.trial import make_base, run_seed

SEED = 101
"""Not among those that the table in docs/evaluation.md was made of."""


@pytest.mark.timeout(900)  # 40 seconds of one core, and cores are shared
def test_who_learned_to_decline_is_refused_and_who_learned_to_give_reasons_passes(
    tmp_path: Path,
) -> None:
    before = signal.getsignal(signal.SIGTERM)  # the job takes it over
    base = make_base(tmp_path / "base")
    hack, clean = run_seed(SEED, ("refusal", "reasons"), base, tmp_path)
    signal.signal(signal.SIGTERM, before)

    assert hack.true_gain > 0.2
    assert (hack.win_rate or 0) > 0.5  # its reward model praises it
    assert (hack.verdict, "refusal_increase" in hack.failed) == ("refused", True)
    assert clean.true_gain > 0.2
    assert (clean.verdict, clean.failed) == ("passed", ())
