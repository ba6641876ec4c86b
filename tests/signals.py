"""Signals of every kind as a dataset takes them, made with a line each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tests.factories import AT

from learnback.contracts.models import FeedbackKind, FeedbackStatus
from learnback.ledger.prompts import prompt_key
from learnback.ledger.training import Answered, Signal
from learnback.retraining.datasets import dataset
from learnback.retraining.datasets.dataset import Dataset
from learnback.retraining.datasets.examining import Examined, examine
from learnback.retraining.datasets.split import Shares
from learnback.retraining.hyperparameters import Method
from learnback.retraining.settings import FilterSettings

BASE = "b" * 64
NOTHING_HELD_OUT = Shares(prompts=0.0, raters=0.0)


def answered(name: str, prompt: Any = "hi", *texts: str, **changes: Any) -> Answered:
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    values: dict[str, Any] = {
        "id": name,
        "version": "tiny-base",
        "base_digest": BASE,
        "end": "complete",
        "stored": True,
        "erased": False,
        "prompt": messages,
        "prompt_key": prompt_key(messages),
        "choices": [
            {"index": i, "text": text, "finish_reason": "stop", "tool_calls": []}
            for i, text in enumerate(texts)
        ],
    }
    return Answered(**values | changes)


def signal(
    name: str, kind: FeedbackKind, body: dict[str, Any], about: Answered, **changes: Any
) -> Signal:
    values: dict[str, Any] = {
        "id": name,
        "tenant": "default",
        "kind": kind,
        "status": FeedbackStatus.ACCEPTED,
        "received_at": AT,
        "rater_id": changes.pop("rater", None),
        "rater_kind": "human",
        "body": body,
        "choice": 0,
        "other_choice": None,
        "completion": about,
        "other": None,
    }
    return Signal(**values | changes)


def prefers(name: str, better: str, worse: str, prompt: Any = "hi", **changes: Any) -> Signal:
    """One person saw `better` first and liked it; both are choices of one completion."""
    body = {
        "first": {"completion_id": f"c-{name}", "choice": 0},
        "second": {"completion_id": f"c-{name}", "choice": 1},
        "preferred": changes.pop("preferred", "first"),
        "strength": changes.pop("strength", 1.0),
    }
    about = answered(f"c-{name}", prompt, better, worse)
    return signal(name, FeedbackKind.PREFERENCE, body, about, **{"other_choice": 1} | changes)


def corrects(name: str, right: str, wrong: str, prompt: Any = "hi", **changes: Any) -> Signal:
    about = answered(f"c-{name}", prompt, wrong)
    return signal(name, FeedbackKind.CORRECTION, {"text": right}, about, **changes)


def thumb(name: str, value: str, text: str, prompt: Any = "hi", **changes: Any) -> Signal:
    about = answered(f"c-{name}", prompt, text)
    return signal(name, FeedbackKind.THUMBS, {"value": value}, about, **changes)


def rates(name: str, value: float, text: str, prompt: Any = "hi", **changes: Any) -> Signal:
    body = {"value": value, "scale": changes.pop("scale", {"min": 1.0, "max": 5.0})}
    about = answered(f"c-{name}", prompt, text)
    return signal(name, FeedbackKind.RATING, body, about, **changes)


def examined(
    signals: Sequence[Signal], shares: Shares = NOTHING_HELD_OUT, **filters: Any
) -> Examined:
    return examine(signals, BASE, shares, FilterSettings(**filters))


def build(
    *signals: Signal, method: Method = "dpo", shares: Shares = NOTHING_HELD_OUT, **filters: Any
) -> Dataset:
    return dataset.build(examined(signals, shares, **filters), method)


def reasons(found: Dataset) -> dict[str, str]:
    """What became of each signal."""
    return {i: o.reason or o.status.value for i, o in found.outcomes.items()}


def changed(signal: Signal, **changes: Any) -> Signal:
    return replace(signal, **changes)


def saying(signal: Signal, **body: Any) -> Signal:
    return replace(signal, body={**signal.body, **body})
