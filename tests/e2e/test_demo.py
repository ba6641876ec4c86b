"""`learnback demo`, which is `make demo`, from its first line to its exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.babbling_model import PREFERENCE, make_babbling_model

from learnback.local.demo import REFUSED

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

SMALL = {
    "LEARNBACK_INFERENCE_ENGINE_ARGS": "--max-model-len 512 --max-num-seqs 32",
    "LEARNBACK_RETRAINING_HYPERPARAMETERS": json.dumps(
        {"learning_rate": 3e-3, "max_steps": 16, "lora_rank": 8, "top_layers": 1.0}
    ),
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
}
PROMPTS = 240
"""Half are answered twice in the same mood, and of the other pairs a quarter is held out: some
thirty, which tell a good reward model from a coin."""


@pytest.fixture(scope="module")
def babbling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_babbling_model(tmp_path_factory.mktemp("babbling") / "babbling")


def demo(model: Path, preference: str, folder: Path) -> tuple[int, str, Any]:
    """Run it; its exit code, what it said, and its report."""
    report = folder / "demo.json"
    command = [sys.executable, "-m", "learnback.cli", "demo", "--model", str(model)]
    command += ["--preference", preference, "--prompts", str(PROMPTS), "--json", str(report)]
    done = subprocess.run(
        [*command, "--home", str(folder / "home")],
        env={**os.environ, **SMALL},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert report.is_file(), done.stdout + done.stderr
    return done.returncode, done.stdout, json.loads(report.read_text())


def test_what_people_like_is_learned_and_serves(babbling: Path, tmp_path: Path) -> None:
    file = tmp_path / "kind.py"
    file.write_text(PREFERENCE)
    code, said, report = demo(babbling, str(file), tmp_path)
    assert code == 0, said
    assert (report["promoted"], report["verdict"]) == (True, "passed")
    assert 0.5 < report["win_rate_low"] < report["win_rate"] <= report["win_rate_high"] <= 1
    assert report["old_version"] != report["new_version"]
    assert report["signals"]["trained"] > report["signals"]["held_out"] > 0
    stages = ["start", "collect", "train", "judge", "swap", "measure"]
    assert list(report["seconds"]) == stages
    assert all(f"seconds: {stage}" in said for stage in stages)
    assert f"{report['new_version']} answers" in said, "it was asked under the public name"
    assert "passed the gate and answers everybody now" in said
    assert report["examples"][0].keys() == {"prompt", "old", "new"}


def test_noise_is_refused_and_said_so(babbling: Path, tmp_path: Path) -> None:
    code, said, report = demo(babbling, "noise", tmp_path)
    assert code == REFUSED, said
    assert not report["promoted"]
    assert report["win_rate"] is None
    assert report["reasons"]
    assert "The old version goes on answering" in said
    assert "nobody can learn what people like if they like nothing" in said
