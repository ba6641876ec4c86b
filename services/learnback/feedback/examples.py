"""One example of each kind of signal, for the API's documentation."""

from __future__ import annotations

from typing import Any

ONE = "chatcmpl-0193a1b2c3d47e5f8a9b0c1d2e3f4a5b"
OTHER = "chatcmpl-0193a1b2c3d47e5f8a9b0c1d2e3f4a5c"


def _example(summary: str, **value: Any) -> dict[str, Any]:
    return {"summary": summary, "value": value}


EXAMPLES: dict[str, dict[str, Any]] = {
    "preference": _example(
        "Which of two answers is better",
        kind="preference",
        first={"completion_id": ONE},
        second={"completion_id": OTHER},
        preferred="second",
        strength=0.8,
        reason="The first one ignores the question.",
        rater={"id": "u-123", "kind": "human"},
    ),
    "preference over a text": _example(
        "An answer against a text of your own",
        kind="preference",
        first={"completion_id": ONE, "choice": 0},
        second={"text": "Paris."},
        preferred="second",
    ),
    "correction": _example(
        "A better answer", kind="correction", completion_id=ONE, text="The capital is Paris."
    ),
    "thumbs": _example("A thumb", kind="thumbs", completion_id=ONE, value="up"),
    "rating": _example(
        "A number on a scale",
        kind="rating",
        completion_id=ONE,
        value=7,
        scale={"min": 0, "max": 10},
    ),
    "comment": _example(
        "Words", kind="comment", completion_id=ONE, text="Too long.", tags=["style"]
    ),
    "outcome": _example(
        "How a session ended", kind="outcome", session_id="ticket-42", name="resolved", value=1
    ),
}
