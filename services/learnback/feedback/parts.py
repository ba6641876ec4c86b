"""What a route needs: the parts of the process, and who asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from learnback.contracts.models import Scope
from learnback.core.limits import RateLimiter
from learnback.feedback.intake import Intake
from learnback.feedback.relay import Relay
from learnback.ledger.database import Database
from learnback.ledger.keys import KeyRing, Principal, require_scope


@dataclass(frozen=True)
class Parts:
    """The parts of the process; `app.state.parts` holds them."""

    database: Database
    keyring: KeyRing
    require_keys: bool
    intake: Intake
    relay: Relay
    limiter: RateLimiter


async def _parts(request: Request) -> Parts:
    # asynchronous, since FastAPI runs a plain function in a thread
    found: Parts = request.app.state.parts
    return found


async def _caller(request: Request, parts: Annotated[Parts, Depends(_parts)]) -> Principal:
    """Who asks; 401 without a good key where one is required, 403 without the scope."""
    header = request.headers.get("authorization")
    principal = await parts.keyring.authenticate(header, required=parts.require_keys)
    require_scope(principal, Scope.FEEDBACK)
    return principal


def bucket(request: Request, principal: Principal) -> str:
    """Whom the rate limit counts: the key, or else the address."""
    if principal.key_id is not None:
        return f"key:{principal.key_id}"
    return f"address:{request.client.host if request.client else 'unknown'}"


ThePartsDep = Annotated[Parts, Depends(_parts)]
CallerDep = Annotated[Principal, Depends(_caller)]
