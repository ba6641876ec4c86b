"""A simulation asks the controller's decision where one may fall, and nowhere misses one."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from learnback.release.canary import Standing, decide
from learnback.release.policy import CanaryPolicy, Measure, Metric, Step
from learnback.release.replay import ENDS, Paths, end
from learnback.release.sequential import People, scores

POLICY = CanaryPolicy(
    steps=(Step(traffic=0.5, min_people=40), Step(traffic=1.0)),
    metrics=(
        Metric(measure=Measure.FEEDBACK, aim="improve"),
        Metric(measure=Measure.ERRORS, margin=0.05),
    ),
)


@pytest.mark.parametrize("effect", [-0.4, 0.0, 0.5])
def test_the_end_is_the_first_that_the_controller_would_come_to(effect: float) -> None:
    rng = np.random.default_rng(round(10 + effect * 10))
    treated = rng.random(400) < 0.5
    outcomes = (rng.random(400) < 0.5 + effect * treated, rng.random(400) < 0.99)
    paths = {
        metric: Paths.of(scores(People(treated, np.full(400, 0.5), y.astype(float))), metric)
        for metric, y in zip(POLICY.metrics, outcomes, strict=True)
    }
    people = np.cumsum(treated).astype(np.int64)
    expected = None
    for i in range(400):
        seen = [path.at(i, metric) for metric, path in paths.items()]
        standing = Standing(0, timedelta.max, timedelta(0), int(people[i]))
        verdict = decide(seen, standing, POLICY).verdict
        if verdict in ENDS:
            expected = (i, verdict)
            break
    assert end(paths, np.zeros(400, dtype=np.int64), people, POLICY) == expected
    assert (expected is None) == (effect == 0)
