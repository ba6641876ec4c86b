"""What becomes of a signal, given what is known of its target. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from learnback.contracts.models import FeedbackKind, FeedbackStatus
from learnback.ledger.completions import Target
from learnback.ledger.trainable import trainable

NOT_STORED = "its completion was served with store=false, so there is nothing to train on"


@dataclass(frozen=True)
class Aim:
    """A completion that a signal is about. `choice` None: all of it."""

    completion_id: str
    choice: int | None
    field: str
    """Path of the object that names it, with a dot at its end; empty for the body itself."""


@dataclass(frozen=True)
class Verdict:
    """A status with its reason. `field` is set where the signal contradicts its target."""

    status: FeedbackStatus
    reason: str | None = None
    field: str | None = None


PENDING = Verdict(FeedbackStatus.PENDING_TARGET)


def aims(body: Mapping[str, Any]) -> tuple[Aim, ...]:
    """The completions that a stored body is about, in the order in which they were shown."""
    if body["kind"] == FeedbackKind.PREFERENCE:
        sides = ((body[name], f"{name}.") for name in ("first", "second"))
        return tuple(
            Aim(side["completion_id"], side["choice"], prefix)
            for side, prefix in sides
            if "completion_id" in side
        )
    if body["kind"] == FeedbackKind.OUTCOME:
        return ()
    return (Aim(body["completion_id"], body.get("choice"), ""),)


def decide(
    body: Mapping[str, Any], known: Sequence[Target | None], *, session_known: bool
) -> Verdict:
    """The status of a signal; `known` holds the target of each of its aims, None if unrecorded."""
    kind = FeedbackKind(body["kind"])
    if kind is FeedbackKind.OUTCOME:
        return _of_use(kind) if session_known else PENDING
    pairs = tuple(zip(aims(body), known, strict=True))
    for aim, target in pairs:
        contradiction = _contradiction(aim, target)
        if contradiction is not None:
            return contradiction
    found = [target for target in known if target is not None]
    if len(found) < len(known):
        return PENDING
    if not all(target.stored for target in found):
        return Verdict(FeedbackStatus.RECORDED, NOT_STORED)
    if len({target.prompt_key for target in found}) > 1:
        reason = "The two completions answer different prompts, so they can't be compared."
        return Verdict(FeedbackStatus.QUARANTINED, reason, "second.completion_id")
    return _of_use(kind)


def _contradiction(aim: Aim, target: Target | None) -> Verdict | None:
    if target is None:
        return None
    if target.erased:
        reason = f"The completion {target.id} has been erased."
        return Verdict(FeedbackStatus.ERASED, reason, f"{aim.field}completion_id")
    if aim.choice is not None and target.stored and aim.choice not in target.choices:
        reason = (
            f"The completion has no choice {aim.choice}; it has {_listed(target.choices)}."
            if target.choices
            else "The completion has no answer: the request failed."
        )
        return Verdict(FeedbackStatus.QUARANTINED, reason, f"{aim.field}choice")
    return None


def _listed(choices: frozenset[int]) -> str:
    shown = [str(choice) for choice in sorted(choices)[:8]]
    return ", ".join(shown) + (", ..." if len(choices) > len(shown) else "")


def _of_use(kind: FeedbackKind) -> Verdict:
    reason = trainable(kind)
    if reason is None:
        return Verdict(FeedbackStatus.ACCEPTED)
    return Verdict(FeedbackStatus.RECORDED, reason)
