"""The ladder's parts that decide: labels, tasks, sizes, scales and curves."""

from __future__ import annotations

import json
import random
import statistics
from pathlib import Path

import pytest

from learnback.local.ladder.budget import (
    COLLECT,
    CURVE,
    DPO,
    EVALUATE,
    KTO,
    RLOO,
    SFT,
    Speed,
    sizes,
)
from learnback.local.ladder.curve import read_curve
from learnback.local.ladder.labels import HELD_OUT, Answered, Rated, label
from learnback.local.ladder.measure import FAR, Scale, interval, outcomes, smooth
from learnback.local.ladder.rungs import ways
from learnback.local.ladder.tasks import KINDS, Task, is_right, make_tasks
from learnback_simulator.people import crowd
from learnback_simulator.preferences import UNUSABLE, brief

SPEED = Speed(answer_s=0.3, read_s=0.1, learn_s=0.3, start_s=8.0)


def answered(count: int = 40) -> list[Answered]:
    dice = random.Random(0)

    def say(length: int) -> str:
        return " ".join(f"word{dice.randrange(10_000)}" for _ in range(length)) + "."

    return [
        Answered(
            f"question {i}?",
            [{"role": "user", "content": f"question {i}?"}],
            tuple((say(dice.randrange(4, 40)), True) for _ in range(4)),
        )
        for i in range(count)
    ]


def test_made_up_tasks_have_one_right_answer_that_the_question_does_not_show() -> None:
    for kind in KINDS:
        tasks = make_tasks(kind, 50, seed=1)
        assert len({task.question for task in tasks}) == 50
        assert all(task.answer not in task.question for task in tasks)
        assert tasks == make_tasks(kind, 50, seed=1)
        assert tasks != make_tasks(kind, 50, seed=2)


def test_a_task_is_right_if_the_answer_stands_in_what_was_said() -> None:
    task = Task("swap", "...", "delta bravo charlie alpha")

    assert is_right(task, "The new line: Delta bravo, charlie alpha.")
    assert not is_right(task, "alpha bravo charlie delta")
    assert not is_right(task, "delta bravo and charlie alpha")
    assert not is_right(Task("reverse", "...", "tar"), "start")


def test_people_err_as_often_as_they_are_said_to() -> None:
    given = answered()
    labels = label(given, crowd(16, brief, error_rate=0.1), brief, silence=0.0)

    pairs = labels.pairs + labels.held_out_pairs
    wrong = [brief("", p["chosen"]) < brief("", p["rejected"]) for p in pairs]
    middle = statistics.median(brief("", text) for e in given for text, _ in e.answers)
    misjudged = [(brief("", t["completion"]) > middle) != t["label"] for t in labels.thumbs]

    assert len(pairs) > 200
    assert sum(wrong) / len(wrong) == pytest.approx(0.1, abs=0.06)
    assert sum(misjudged) / len(misjudged) == pytest.approx(0.1, abs=0.08)


def test_what_is_held_out_is_in_no_training_data() -> None:
    labels = label(answered(), crowd(16, brief), brief, silence=5.0)

    kept = {row["prompt"] for row in labels.held_out_pairs}
    trained = {row["prompt"] for row in (*labels.pairs, *labels.thumbs, *labels.liked)}
    assert len(kept) == HELD_OUT * 40
    assert not kept & trained
    assert all(row["label"] for row in labels.liked)
    assert {rated.prompt for rated in labels.best} <= {
        json.loads(prompt)[-1]["content"] for prompt in trained
    }


def test_people_say_nothing_where_they_see_little_difference() -> None:
    everything = label(answered(), crowd(16, brief), brief, silence=0.0)
    little = label(answered(), crowd(16, brief, indifference=8.0), brief, silence=8.0)

    assert len(little.pairs) < len(everything.pairs)
    assert len(little.thumbs) < len(everything.thumbs)


def test_the_budget_is_used_and_not_overrun() -> None:
    found = sizes(3600, SPEED, rungs=10)

    dpo = SPEED.run_s + found.dpo_steps * 8 * 2 * 0.4
    policy = SPEED.run_s + found.rloo_steps * 16 * 0.7
    assert dpo <= DPO * 3600
    assert 0.9 * RLOO * 3600 <= policy <= RLOO * 3600
    assert sum((COLLECT, EVALUATE, SFT, DPO, KTO, RLOO, CURVE)) == pytest.approx(1.0)


def test_a_tiny_budget_still_does_something_of_everything() -> None:
    found = sizes(1, SPEED, rungs=10)

    assert min(found.__dict__.values()) >= 4
    assert sizes(7200, SPEED, rungs=10).measured_prompts > found.measured_prompts


def test_standard_scores_are_cut_so_that_no_broken_answer_outweighs_all() -> None:
    scale = Scale.of([*map(float, range(-20, 0)), UNUSABLE])

    assert scale.standard(-11.0) == pytest.approx(0.0, abs=0.1)
    assert scale.standard(UNUSABLE) == -FAR
    assert scale.standard(-9.0) > scale.standard(-12.0)


def test_a_win_rate_counts_ties_as_half() -> None:
    won = outcomes(
        brief, ["q"] * 3, ["a b c.", "a b c.", "a b c d."], ["a b c d.", "d e f.", "a b c."]
    )

    assert won == [1.0, 0.5, 0.0]
    rate, low, high = interval(won * 20, seed=0)
    assert rate == 0.5
    assert low < 0.5 < high


def rated(*prompts: str) -> list[Rated]:
    system = {"role": "system", "content": "Be kind."}
    return [
        Rated(p, [system, {"role": "user", "content": p}], f"answer to {p}", 0.8) for p in prompts
    ]


def test_ways_change_the_prompt_and_leave_the_caller_s_system_text() -> None:
    asked = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Why?"}]
    every = {way.name: way.ask(asked) for way in ways(rated("How?", "What?"), 7)}

    assert every["zero-shot"] == asked
    assert "step by step" in every["think step by step"][-1]["content"]
    assert len({str(chat) for chat in every.values()}) == len(every) == 6
    assert all("Be kind." in chat[0]["content"] for chat in every.values())


def test_few_shot_shows_the_examples_that_are_most_like_the_prompt() -> None:
    bank = rated("boil an egg", "fold a shirt", "paint a fence", "boil rice", "boil a potato")
    few = next(way for way in ways(bank, 5) if way.name == "few-shot")
    system = {"role": "system", "content": "Be kind."}

    chat = few.ask([system, {"role": "user", "content": "How do I boil water?"}])

    shown = {m["content"] for m in chat[1:-1] if m["role"] == "user"}
    assert shown == {"boil an egg", "boil rice", "boil a potato"}


def test_few_shot_shows_solved_tasks_of_the_same_kind() -> None:
    solved = make_tasks("swap", 3, seed=0)
    posed = make_tasks("swap", 4, seed=9)[3]
    few = next(way for way in ways(rated("q"), 1) if way.name == "few-shot")

    chat = few.ask_task(posed, solved)

    assert [m["content"] for m in chat if m["role"] == "assistant"] == [t.answer for t in solved]
    assert chat[-1]["content"] == posed.question


def test_a_curve_is_read_from_what_a_run_said(tmp_path: Path) -> None:
    folder = tmp_path / "rollouts"
    folder.mkdir()
    for step in range(1, 5):
        said = [
            {
                "prompt": [{"role": "user", "content": "q"}],
                "answer": "a b c." if step < 3 else "a.",
                "score": float(step),
            },
            {"prompt": [{"role": "user", "content": "q"}], "answer": "a b c.", "score": None},
        ]
        content = {"metrics": {"kl": float(step**2)}, "answers": said}
        (folder / f"{step:06}.json").write_text(json.dumps(content))

    curve = read_curve("beta 0", tmp_path, brief, Scale(-3.0, 1.0), Scale(0.0, 1.0))

    assert curve.paid == [(2.0, 2.0), (3.0, 3.0)]
    assert [x for x, _ in curve.gold] == [2.0, 3.0]
    assert curve.gold[1][1] < curve.gold[0][1] < 0.0


def test_smoothing_needs_as_many_steps_as_it_is_wide() -> None:
    assert smooth([(1.0, 3.0), (2.0, 5.0), (3.0, 7.0)]) == [(2.0, 5.0)]
    assert smooth([(1.0, 3.0)]) == [(1.0, 3.0)]
