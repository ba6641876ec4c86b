"""`learnback ladder` from end to end, on the tiny model that gives one of two answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.taught_model import make_taught_model

from learnback.cli import main

pytestmark = [pytest.mark.timeout(280), pytest.mark.xdist_group("rloo")]

LIKES_SHORT = '''
def score(prompt, answer):
    """Likes few letters."""
    return -float(len(answer))
'''


def _command(folder: Path, out: Path) -> list[str]:
    return [
        "ladder", "--budget", "0.1", "--seed", "3", "--preference", str(folder / "mine.py"),
        "--model", str(folder / "taught"), "--out", str(out),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("ladder")
    (folder / "mine.py").write_text(LIKES_SHORT)
    make_taught_model(folder)
    command = [*_command(folder, folder / "out"), "--json", str(folder / "result.json")]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    return json.loads((folder / "result.json").read_text()), folder / "out"


def test_every_rung_is_measured_against_the_pretrained_model(
    measured: tuple[dict[str, Any], Path],
) -> None:
    result, _ = measured
    rungs = {rung["name"]: rung for rung in result["rungs"]}

    assert result["failed"] == {}
    assert list(rungs) == [
        "zero-shot", "few-shot", "chain of thought", "think step by step", "think, then answer",
        "work it out", "supervised", "DPO", "KTO", "RLOO",
    ]  # fmt: skip
    assert rungs["zero-shot"]["kl"] == pytest.approx(0.0, abs=1e-6)
    assert rungs["zero-shot"]["low"] <= 0.5 <= rungs["zero-shot"]["high"]
    for name in ("supervised", "DPO", "KTO", "RLOO"):
        assert rungs[name]["kl"] > 0
        assert rungs[name]["seconds"] > 0
        assert rungs[name]["signals"] > 0
    assert result["reward_model"]["held_out_accuracy"] > 0.7


def test_the_curve_has_paid_and_gold_reward_for_every_beta(
    measured: tuple[dict[str, Any], Path],
) -> None:
    result, _ = measured

    assert [curve["name"] for curve in result["curves"]] == [
        "beta controlled", "beta 0", "beta 0.3",
    ]  # fmt: skip
    for curve in result["curves"]:
        assert len(curve["paid"]) == len(curve["gold"]) >= 2


def test_the_page_has_a_table_two_pictures_and_what_was_said(
    measured: tuple[dict[str, Any], Path],
) -> None:
    result, out = measured
    page = (out / "ladder.md").read_text()

    assert "| RLOO |" in page
    assert len(list(out.glob("ladder-*.svg"))) == 2
    assert result["rungs"][0]["examples"][0].partition("\n")[0] in page
    assert (out / "ladder.html").read_text().count("<svg") == 2


def test_a_ladder_that_was_ended_goes_on_with_what_it_lacks(
    measured: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    result, out = measured
    earlier = json.loads(json.dumps(result))
    kto = earlier["rungs"].pop(8)
    earlier["failed"], earlier["curves"] = {"KTO": "it was killed"}, earlier["curves"][:2]
    shutil.copytree(out, tmp_path / "out")
    (tmp_path / "out" / "ladder.json").write_text(json.dumps(earlier))
    again = [*_command(out.parent, tmp_path / "out"), "--resume"]

    done = CliRunner().invoke(main, again)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "out" / "ladder.json").read_text())
    assert [rung["name"] for rung in found["rungs"]][-1] == "KTO"
    assert found["rungs"][:-1] == earlier["rungs"]
    assert found["rungs"][-1]["win_rate"] == kto["win_rate"]  # the same people, prompts and seeds
    assert [curve["name"] for curve in found["curves"]][-1] == "beta 0.3"
    assert found["failed"] == {}
    assert found["seconds"]["dpo"] == result["seconds"]["dpo"]


@pytest.mark.parametrize(
    ("change", "said"),
    [(["--seed", "4"], "has seed 3, not 4"), (["--out", "nowhere"], "can't be read")],
)
def test_rungs_of_two_ladders_are_never_mixed(
    measured: tuple[dict[str, Any], Path], change: list[str], said: str
) -> None:
    _, out = measured
    done = CliRunner().invoke(main, [*_command(out.parent, out), "--resume", *change])
    assert done.exit_code == 1
    assert said in done.output.replace("\n", " ")


def test_an_unknown_preference_is_refused_by_name() -> None:
    done = CliRunner().invoke(main, ["ladder", "--preference", "nonsense"])

    assert done.exit_code == 1
    assert "nonsense" in done.output
