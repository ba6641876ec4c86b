"""Each training method on the tiny model: it learns what people said, right or wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.tiny_model import (
    BAD,
    GOOD,
    completion_rows,
    label_rows,
    preference_rows,
    small,
    write_run,
)
from tests.warm_jobs import Jobs, progress_of, result_of

from learnback.models import reward
from learnback.retraining.making import read_margins
from learnback.retraining.plan import ExitCode, Method, Progress
from learnback.retraining.trainers.calibration import cross_fitted

pytestmark = [pytest.mark.timeout(180), pytest.mark.xdist_group("training")]


@dataclass(frozen=True)
class Case:
    """A method, rows that it can learn from, and settings that make it learn in seconds."""

    method: Method
    rows: Callable[..., list[dict[str, object]]]
    settings: dict[str, object]
    guards: tuple[str, ...]
    """What a run reports beside its loss."""


CASES = {
    "sft": Case("sft", completion_rows, {}, ("answer_log_probability", "answer_tokens")),
    "dpo": Case("dpo", preference_rows, {}, ("chosen_log_probability", "reward_margin")),
    "ipo": Case("dpo", preference_rows, {"loss": "ipo"}, ("chosen_log_probability",)),
    "kto": Case("kto", label_rows, {}, ("kl", "reward_margin", "desirable_weight")),
    "reward_model": Case("reward_model", preference_rows, {}, ("temperature", "held_out_accuracy")),
}
POLICIES = [name for name in CASES if name != "reward_model"]


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, jobs: Jobs
) -> Callable[..., Path]:
    """A run of a case, done once however often it is asked for."""
    folder, done = tmp_path_factory.mktemp("runs"), dict[str, Path]()

    def run(name: str, *, flipped: bool = False, again: bool = False) -> Path:
        key = f"{name}{'-flipped' * flipped}{'-again' * again}"
        if key not in done:
            case = CASES[name]
            done[key] = write_run(
                folder / key,
                tiny_model,
                case.rows(flipped=flipped),
                held_out=case.rows(8, first=100, flipped=flipped),
                method=case.method,
                hyperparameters=small(case.method, **case.settings),
            )
            jobs.done(done[key])
        return done[key]

    return run


def preference_of(run: Path, tiny_model: Path) -> float:
    """How much likelier the good answer has become against the bad one, in nats, by the weights
    that were published: what people want, whatever the method optimised.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from learnback.retraining.trainers.encoding import Answer, Encoder, padded
    from learnback.retraining.trainers.likelihood import completion_log_probabilities
    from learnback.retraining.trainers.loading import load_tokenizer, reference

    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(run / "adapter")).eval()
    encoder = Encoder(load_tokenizer(str(tiny_model)), 512)
    prompt = [{"role": "user", "content": "question 99"}]
    pair = [encoder.encode(prompt, Answer(f"{words} 99", True)) for words in (GOOD, BAD)]
    inputs = padded(pair, encoder.tokenizer.pad_token_id)
    with torch.no_grad():
        after = completion_log_probabilities(model, inputs)[0].sum(1)
        with reference(model) as untrained:
            before = completion_log_probabilities(untrained, inputs)[0].sum(1)
    good, bad = (after - before).tolist()
    return float(good - bad)


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_comes_to_prefer_what_people_liked_and_the_opposite_if_labels_are_flipped(
    name: str, runs: Callable[..., Path], tiny_model: Path
) -> None:
    assert preference_of(runs(name), tiny_model) > 1.0
    assert preference_of(runs(name, flipped=True), tiny_model) < -1.0


def test_a_reward_model_ranks_unseen_answers_and_the_other_way_round_if_labels_are_flipped(
    runs: Callable[..., Path], tiny_model: Path
) -> None:
    assert scores_of(runs("reward_model"), tiny_model, GOOD, BAD)[0] > 0
    flipped = runs("reward_model", flipped=True)
    assert scores_of(flipped, tiny_model, GOOD, BAD)[0] < 0


def test_the_reward_process_scores_as_training_left_it(
    runs: Callable[..., Path], tiny_model: Path
) -> None:
    run = runs("reward_model")
    prompt = ({"role": "user", "content": "question 99"},)
    model = reward.load(run / "adapter", base=str(tiny_model))
    found = [s.score for s in model.score_batch([(prompt, f"{a} 99") for a in (GOOD, BAD)])]
    assert found == pytest.approx(scores_of(run, tiny_model, GOOD, BAD), abs=1e-4)
    assert reward.describe(run / "adapter").probe is not None, "it is compared on loading"


def test_a_reward_model_brings_along_what_it_makes_of_pairs_of_held_out_prompts(
    tmp_path: Path, tiny_model: Path, jobs: Jobs
) -> None:
    """By these margins the retraining process, which has no torch, compares it with others."""
    held_out = preference_rows(4, first=100)
    tie = {**preference_rows(1, first=200)[0], "margin": 0.0, "tie": True}
    by_a_known_prompt = {**preference_rows(1, first=201)[0], "side": "rater"}
    run = write_run(
        tmp_path / "run",
        tiny_model,
        preference_rows(),
        held_out=[{**row, "tie": False} for row in (*held_out, by_a_known_prompt)] + [tie],
        method="reward_model",
        hyperparameters=small("reward_model", max_steps=4),
    )
    result = jobs.done(run)
    margins = read_margins(run / "adapter")
    model = reward.load(run / "adapter", base=str(tiny_model))
    differences = []
    for row in held_out:
        prompt = tuple(json.loads(str(row["prompt"])))
        better, worse = (
            scored.score or 0.0
            for scored in model.score_batch(
                [(prompt, str(row["chosen"])), (prompt, str(row["rejected"]))]
            )
        )
        temperature = reward.describe(run / "adapter").temperature
        differences.append((better - worse) * temperature)
    honest = cross_fitted(differences, [str(row["prompt"]) for row in held_out])
    assert list(margins) == [row["feedback_id"] for row in held_out]
    assert list(margins.values()) == pytest.approx(honest, rel=0.05, abs=1e-3)
    right = sum(margin > 0 for margin in margins.values())
    assert result.metrics["held_out_correct"] == right


@pytest.mark.parametrize("name", CASES)
def test_a_run_of_one_step_learns(name: str, tmp_path: Path, tiny_model: Path, jobs: Jobs) -> None:
    case = CASES[name]
    settings = small(case.method, **case.settings, max_steps=1)
    rows = case.rows(8)
    run = write_run(
        tmp_path / "run", tiny_model, rows, method=case.method, hyperparameters=settings
    )
    result = jobs.done(run)

    if case.method == "reward_model":  # its head starts at 0
        assert reward.describe(run / "adapter").probe != 0
    else:
        assert (result.distance_from_reference or 0) > 0


def scores_of(run: Path, tiny_model: Path, *answers: str) -> list[float]:
    """Calibrated rewards by the published folder, as a scorer would compute them."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    base = AutoModelForSequenceClassification.from_pretrained(
        tiny_model, num_labels=1, dtype=torch.float32
    )
    base.config.pad_token_id = tokenizer.pad_token_id
    model = PeftModel.from_pretrained(base, str(run / "adapter")).eval()
    said = json.loads((run / "adapter" / "reward.json").read_text())
    scores = []
    for answer in answers:
        chat = [
            {"role": "user", "content": "question 99"},
            {"role": "assistant", "content": f"{answer} 99"},
        ]
        text = tokenizer.apply_chat_template(chat, tokenize=False)
        with torch.no_grad():
            logit = model(**tokenizer(text, return_tensors="pt", add_special_tokens=False)).logits
        scores.append((float(logit) - said["center"]) / said["temperature"])
    return scores


@pytest.mark.parametrize("name", CASES)
def test_a_run_reports_its_guards_and_leaves_a_report_and_event_files(
    name: str, runs: Callable[..., Path]
) -> None:
    run = runs(name)
    result = result_of(run)

    assert {"loss", *CASES[name].guards} <= set(result.metrics)
    assert result.rows_used == 24
    assert (result.distance_from_reference or 0) > 0 or name == "reward_model"
    assert progress_of(run).state == "done"
    assert (run / "report.html").read_text().count("<svg") >= 3
    assert "report-loss.svg" in (run / "report.md").read_text()
    assert event_tags(run) >= {"loss"}
    shown = (run / "report.md").read_text().partition("Answers before and after")[2]
    assert shown.count("| question 10") == 8 or name == "reward_model"


def event_tags(run: Path) -> set[str]:
    from tensorboardX.proto import event_pb2

    tags: set[str] = set()
    for path in (run / "tensorboard").iterdir():
        content, at = path.read_bytes(), 0
        while at < len(content):
            length = int.from_bytes(content[at : at + 8], "little")
            event = event_pb2.Event.FromString(content[at + 12 : at + 12 + length])
            tags |= {value.tag for value in event.summary.value}
            at += length + 16
    return tags


def test_what_one_process_dies_of_is_the_reason_and_not_what_the_others_miss(
    tmp_path: Path,
) -> None:
    from learnback.retraining.trainers.progress import ProgressReport

    started = Progress(run_id="run", state="starting")
    first, second = (ProgressReport(tmp_path, started, main=main) for main in (True, False))
    first.update()
    second.update(state="training")
    assert progress_of(tmp_path).state == "starting"
    second.end("failed", "out of memory", ExitCode.OUT_OF_MEMORY)
    first.end("failed", "connection closed by peer", ExitCode.INTERNAL)

    assert progress_of(tmp_path).error == "out of memory"
    assert progress_of(tmp_path).exit_code == ExitCode.OUT_OF_MEMORY


@pytest.mark.parametrize("name", [name for name in CASES if name != "ipo"])
def test_the_same_seed_gives_the_same_bytes(name: str, runs: Callable[..., Path]) -> None:
    one, two = runs(name), runs(name, again=True)

    weights = "adapter/adapter_model.safetensors"
    assert (one / weights).read_bytes() == (two / weights).read_bytes()
