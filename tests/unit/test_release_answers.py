"""Cached answers survive torn writes and forget what is gone; progress tells the time."""

from __future__ import annotations

from pathlib import Path

from learnback.release.answers import AnswerCache, answer_key
from learnback.release.engine import Answer, ToolCall
from learnback.release.progress import Progress


def test_answers_are_kept_by_version(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path)
    called = Answer("", calls=(ToolCall("add", '{"a": 1}'),), cut=True)
    cache.add("v1", "a", Answer("one\nline ☔\u2028"))
    cache.add("v2", "a", called)
    assert AnswerCache(tmp_path).load("v1") == {"a": Answer("one\nline ☔\u2028")}
    assert cache.load("v2") == {"a": called}
    assert cache.load("v3") == {}


def test_a_torn_line_costs_one_answer(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path)
    cache.add("v1", "a", Answer("one"))
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes() + b'\n{"key": "b", "te')
    cache.add("v1", "c", Answer("three"))
    assert cache.load("v1") == {"a": Answer("one"), "c": Answer("three")}


def test_only_what_is_asked_for_stays(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path)
    for version in ("v1", "v2"):
        for key in ("a", "b"):
            cache.add(version, key, Answer(f"{version}{key}"))
    cache.keep_only(["v1"], ["b"])
    assert (cache.load("v1"), cache.load("v2")) == ({"b": Answer("v1b")}, {})
    cache.add("v1", "c", Answer("later"))
    assert cache.load("v1") == {"b": Answer("v1b"), "c": Answer("later")}


def test_other_parameters_are_another_answer() -> None:
    keys = {answer_key("p", {"temperature": t, "max_tokens": n}) for t in (0, 1) for n in (8, 64)}
    assert len(keys) == 4


def test_progress_counts_and_estimates() -> None:
    now = [100.0]
    progress = Progress("v1", clock=lambda: now[0])
    progress.begin("generating", total=10)
    assert progress.eta_s is None
    for _ in range(2):
        progress.step(generated=False)
    now[0] = 106.0
    for _ in range(3):
        progress.step(generated=True)
    assert progress.percent == 50.0
    assert progress.eta_s == 10.0
    assert progress.as_data()["seconds"] == 6.0
