"""The release process as the operator asks it: its HTTP API, typed as far as we read it."""

from __future__ import annotations

from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict

from learnback.core.errors import (
    Conflict,
    LearnbackError,
    NotFound,
    Unauthenticated,
    Unavailable,
    Unprocessable,
)

AWAITING_APPROVAL, PROMOTED = "AwaitingApproval", "Promoted"


class Line(BaseModel):
    """A version in the list of releases; words are passed on as they come."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str
    kind: str
    phase: str
    track: str | None = None
    weight: float = 0.0
    verdict: str | None = None
    reasons: tuple[str, ...] = ()


class Releases:
    """The client. Every method raises Unavailable while the release process is away."""

    def __init__(self, http: httpx.AsyncClient, key: str = "") -> None:
        self.http = http
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}

    async def list(self) -> list[Line]:
        """All versions that can answer people, newest first."""
        found = await self._send("GET", "/admin/v1/releases")
        lines = (Line.model_validate(version) for version in found["versions"])
        return [line for line in lines if line.kind != "reward_model"]

    async def ask(self, version: str, reason: str) -> None:
        """Ask for evaluation and canary. NotFound, Conflict or Unprocessable if it can't be."""
        await self._send("POST", "/admin/v1/releases", {"version": version, "reason": reason})

    async def approve(self, version: str, *, approved: bool, reason: str) -> None:
        """Say yes or no to the step that a version waits for. Conflict if it waits for none."""
        body = {"approved": approved, "reason": reason}
        await self._send("POST", f"/admin/v1/releases/{version}/approval", body)

    async def _send(self, method: str, path: str, body: Any = None) -> Any:
        try:
            answer = await self.http.request(method, path, json=body, headers=self.headers)
        except httpx.HTTPError as error:
            raise Unavailable(f"The release process can't be reached: {error!r}") from error
        if answer.is_success:
            return answer.json()
        errors: dict[int, type[LearnbackError]] = {
            401: Unauthenticated,
            404: NotFound,
            409: Conflict,
            422: Unprocessable,
        }
        raise errors.get(answer.status_code, Unavailable)(_detail(answer))


def _detail(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"The release process answered {answer.status_code}."
