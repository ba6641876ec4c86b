"""What the reward model in use says of answers that a dataset is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from learnback.contracts.models import Alias
from learnback.ledger import rescoring
from learnback.ledger.database import Database
from learnback.registry import store

ACTOR = "retraining"


@dataclass(frozen=True)
class Scores:
    """Scores by completion and choice; what the model could not judge has none."""

    reward_model: str | None
    found: dict[tuple[str, int], float]
    awaited_since: datetime | None
    """Some completions have no score yet, and were asked for then; None: all have theirs."""


async def scores_of(database: Database, ids: Sequence[str]) -> Scores:
    """Scores of completions. What the reward model in use has not scored is asked for, and is
    there in one of the next steps: the reward process sees to it. Raises Unavailable.
    """
    async with database.write() as connection:
        model = (await store.alias_state(connection, Alias.REWARD)).version
        if model is None:
            return Scores(None, {}, None)
        wish = await rescoring.ask(connection, model, asked_by=ACTOR, ids=ids)
        found = await rescoring.scores_of(connection, model, ids)
    judged = {answer: score for answer, score in found.items() if score is not None}
    return Scores(model, judged, wish.asked_at if wish else None)
