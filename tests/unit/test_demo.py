"""The demo says what it found, and ends when nothing moves any more."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from learnback.core.errors import BadRequest, LearnbackError
from learnback.local import demo
from learnback.local.demo import REFUSED, Demo, run_demo
from learnback.local.demo_report import DemoResult, show
from learnback.local.stages import Stages

GATE = {
    "verdict": "refuse",
    "reasons": ["win_rate_low: 0.41 is not > 0.5"],
    "evaluation": {"win_rate": {"rate": 0.5, "low": 0.41, "high": 0.59, "n": 64}},
}


def shown(result: DemoResult) -> str:
    console = Console(file=io.StringIO(), width=200)
    show(result, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def passed(result: DemoResult) -> None:
    result.promoted, result.verdict = True, "promote"
    result.old_version, result.new_version = "tiny.base.1", "tiny.dpo.2"
    result.win_rate, result.win_rate_low, result.win_rate_high = 0.79, 0.7, 0.88
    result.held_out_prompts = 80
    result.signals = {"trained": 120, "held_out": 51}
    result.seconds = {"start": 30.2, "collect": 99.9}


def refused(result: DemoResult) -> None:
    result.verdict, result.reasons, result.gate = "refuse", list(GATE["reasons"]), GATE


def test_a_promotion_is_shown_with_its_win_rate_signals_versions_and_seconds() -> None:
    result = DemoResult("brief", 0, "tiny")
    passed(result)
    said = shown(result)
    for part in (
        "0.79 (95% interval 0.70 to 0.88, 80 held-out prompts)",
        "171: 51 held_out, 120 trained",
        "tiny.base.1",
        "tiny.dpo.2",
        "seconds: collect",
        "passed the gate and answers everybody now",
    ):
        assert part in said


def test_a_refusal_is_shown_with_the_gates_own_win_rate_and_reasons() -> None:
    result = DemoResult("noise", 0, "tiny")
    refused(result)
    said = shown(result)
    assert "win rate by the gate's reward model" in said
    assert "0.50 (95% interval 0.41 to 0.59, 64 held-out prompts)" in said
    assert "win_rate_low: 0.41 is not > 0.5" in said
    assert "nobody can learn what people like if they like nothing" in said
    assert "answers everybody now" not in said


@pytest.mark.parametrize(("ending", "code"), [(passed, 0), (refused, REFUSED)])
def test_the_exit_code_is_0_only_if_the_new_version_serves(
    ending: Any, code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def run(self: Demo) -> None:
        ending(self.result)

    monkeypatch.setattr(Demo, "run", run)
    monkeypatch.setattr(demo, "resolve_model", lambda model, console: str(model))
    file = tmp_path / "deep" / "demo.json"
    found = run_demo(
        preference="brief", seed=3, json_file=file, home=tmp_path, model="tiny", prompts=8
    )
    assert found == code
    written = json.loads(file.read_text())
    assert (written["promoted"], written["seed"]) == (code == 0, 3)


def test_a_preference_that_nobody_knows_is_refused_before_anything_starts() -> None:
    with pytest.raises(BadRequest) as raised:
        run_demo(preference="shouty", seed=0, json_file=None, home=None, model=None, prompts=None)
    assert raised.value.field == "--preference"


async def test_a_stage_that_does_not_move_ends_the_demo_and_says_where(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(demo, "STALL_S", 0.02)
    monkeypatch.setattr(demo, "POLL_S", 0.01)
    looks = 0

    async def look() -> None:
        nonlocal looks
        looks += 1
        stage.advance(min(looks, 5), 10, "asking")  # it moves five times, and then no more

    with (
        Stages(Console(file=io.StringIO()), 1).stage("judge", "release evaluates") as stage,
        pytest.raises(LearnbackError, match=r"in the stage 'judge'\. It last said: asking"),
    ):
        await demo._until(stage, look)
    assert looks >= 5
