"""`learnback check`: a running platform, tried from the outside as a client sees it.

One request, one signal for its answer, and what the ledger says became of the signal. Only public
HTTP APIs are used, so it runs anywhere that reaches them; the chart's `helm test` is this command.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import click
import httpx

from learnback.contracts.models import FeedbackStatus
from learnback.core.errors import LearnbackError, Unavailable
from learnback.core.ids import new_id
from learnback.local.show import show_json

T = TypeVar("T")

POLL_S = 0.5
"""Between two looks: a signal is joined to its completion within a second or two."""
ATTEMPT_S = 60.0
"""Longest wait for one HTTP answer: a cold engine on a busy CPU."""
TRY_AGAIN = frozenset({401, 404, 408, 425, 429, 500, 502, 503, 504})
"""What a platform that is still starting answers; a new key is known within seconds."""


class CheckFailed(LearnbackError):
    """The platform answered, but not as it should."""

    code, title = "check_failed", "Check failed"


@dataclass(frozen=True)
class Checked:
    """What was seen, with seconds since the beginning."""

    completion_id: str
    version: str | None
    """The version that answered."""
    answered_s: float
    feedback_id: str
    status: str
    """What the ledger said of the signal once it had joined it to its completion."""
    status_reason: str | None
    joined_s: float
    erased_s: float


class Patience:
    """A deadline that all steps share."""

    def __init__(self, timeout_s: float) -> None:
        self.started = time.monotonic()
        self.deadline = self.started + timeout_s

    def spent(self) -> float:
        """Seconds so far."""
        return round(time.monotonic() - self.started, 3)

    def left(self) -> float:
        """Seconds that one HTTP answer may take."""
        return max(0.1, min(ATTEMPT_S, self.deadline - time.monotonic()))

    def until(self, what: str, look: Callable[[], T | None]) -> T:
        """The first result of `look`; Unavailable with its last reason when time is up."""
        why = "nothing was seen"
        while True:
            try:
                found = look()
                if found is not None:
                    return found
            except Unavailable as error:
                why = error.detail
            if time.monotonic() + POLL_S > self.deadline:
                raise Unavailable(f"{what}: not within the time given; {why}")
            time.sleep(POLL_S)


def run_check(
    inference_url: str, feedback_url: str, model: str, timeout_s: float, as_json: bool
) -> None:
    """Check and print what was seen. Raises CheckFailed or Unavailable with the reason."""
    key = os.environ.get("LEARNBACK_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with httpx.Client(headers=headers, trust_env=False) as client:
        seen = check(client, inference_url, feedback_url, model, Patience(timeout_s))
    if as_json:
        show_json(asdict(seen))
        return
    click.echo(f"{seen.answered_s:7.2f} s  {seen.completion_id} answered by {seen.version}")
    reason = f" ({seen.status_reason})" if seen.status_reason else ""
    click.echo(f"{seen.joined_s:7.2f} s  {seen.feedback_id} is {seen.status}{reason}")
    click.echo(f"{seen.erased_s:7.2f} s  both are erased again; the loop is well")


def check(
    client: httpx.Client, inference_url: str, feedback_url: str, model: str, patience: Patience
) -> Checked:
    """Ask, say something of the answer, wait for the ledger, erase both again."""
    api = f"{feedback_url.rstrip('/')}/v1"
    answer = patience.until("the answer", lambda: _ask(client, inference_url, model, patience))
    answered_s = patience.spent()
    completion_id = answer.headers.get("x-learnback-completion-id") or str(answer.json()["id"])
    key = new_id("check")  # one for all attempts, so that the signal counts once
    signal = patience.until(
        "the feedback", lambda: _say(client, f"{api}/feedback", completion_id, key, patience)
    )
    one = f"{api}/feedback/{signal['id']}"
    joined = patience.until("the ledger", lambda: _joined(client, one, patience))
    joined_s = patience.spent()
    if joined["completion_id"] != completion_id:
        raise CheckFailed(f"{signal['id']} was joined to {joined['completion_id']}.")
    completion = f"{api}/completions/{completion_id}"
    patience.until("erasing", lambda: _send(client, patience, "DELETE", completion))
    left = patience.until("what is left", lambda: _send(client, patience, "GET", one)).json()
    if left["status"] != FeedbackStatus.ERASED:
        raise CheckFailed(f"{signal['id']} is {left['status']}, though its completion is erased.")
    return Checked(
        completion_id=completion_id,
        version=answer.headers.get("x-learnback-version"),
        answered_s=answered_s,
        feedback_id=signal["id"],
        status=joined["status"],
        status_reason=joined["status_reason"],
        joined_s=joined_s,
        erased_s=patience.spent(),
    )


def _ask(client: httpx.Client, url: str, model: str, patience: Patience) -> httpx.Response:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Say hello."}],
        "max_tokens": 8,
        "store": True,
        "metadata": {"learnback_purpose": "check"},
    }
    return _send(client, patience, "POST", f"{url.rstrip('/')}/v1/chat/completions", body)


def _say(
    client: httpx.Client, url: str, completion_id: str, key: str, patience: Patience
) -> dict[str, Any]:
    body = {
        "kind": "thumbs",
        "completion_id": completion_id,
        "value": "up",
        "rater": {"id": "learnback check", "kind": "code"},
    }
    found: dict[str, Any] = _send(client, patience, "POST", url, body, key).json()
    return found


def _joined(client: httpx.Client, url: str, patience: Patience) -> dict[str, Any] | None:
    found: dict[str, Any] = _send(client, patience, "GET", url).json()
    if found["status"] == FeedbackStatus.PENDING_TARGET:
        raise Unavailable("the completion is not recorded yet")
    return found


def _send(
    client: httpx.Client, patience: Patience, method: str, url: str, body: Any = None, key: str = ""
) -> httpx.Response:
    """An answer with a 2xx. Unavailable for what may pass, CheckFailed for what will not."""
    headers = {"Idempotency-Key": key} if key else {}
    try:
        answer = client.request(method, url, json=body, headers=headers, timeout=patience.left())
    except httpx.HTTPError as error:
        raise Unavailable(f"{url}: {type(error).__name__}: {error}") from error
    if answer.is_success:
        return answer
    said = f"{method} {url} answered {answer.status_code}: {answer.text[:300]}"
    raise Unavailable(said) if answer.status_code in TRY_AGAIN else CheckFailed(said)
