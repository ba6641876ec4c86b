"""What evaluations ask and judge by is in no training dataset, of whatever shape."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from sqlalchemy import select, update
from tests.learning import tell

from learnback.ledger.evaluation import held_out_comparisons, held_out_prompts
from learnback.ledger.prompts import rater_held_out
from learnback.ledger.tables import completions, feedback
from learnback.ledger.training import signals
from learnback.retraining.datasets.dataset import Method, build
from learnback.retraining.datasets.examining import examine
from learnback.retraining.datasets.split import Shares
from learnback.retraining.settings import FilterSettings

RATERS = 24


@pytest.mark.parametrize("method", get_args(Method))
async def test_held_out_prompts_and_people_are_in_no_dataset(
    sqlite_database: Any, method: Method
) -> None:
    ids = await tell(sqlite_database, 240)
    raters = {name: f"rater-{n % RATERS}" for n, name in enumerate(ids)}
    async with sqlite_database.write() as c:
        for name, rater in raters.items():
            await c.execute(update(feedback).where(feedback.c.id == name).values(rater_id=rater))
    async with sqlite_database.read() as c:
        said = await signals(c)
        asked = [(r.prompt_key, tuple(r.prompt)) for r in await c.execute(select(completions))]
        evaluated = {p.key for p in await held_out_prompts(c, limit=1000)}
        judged = {one.feedback_id for one in await held_out_comparisons(c, limit=1000)}

    dataset = build(examine(said, "0" * 64, Shares(), FilterSettings()), method, asked)
    trained = {row.prompt_key for row in dataset.train}
    learned = {i for row in dataset.train for i in getattr(row, "feedback_ids", ())}
    assert evaluated
    assert judged
    assert not trained & evaluated
    assert not learned & judged
    kept_out = {name for name, rater in raters.items() if rater_held_out("default", rater, 0.1)}
    assert kept_out
    assert not learned & kept_out
