"""Every test that takes `scenario` runs for each file of values in the chart's `ci/`."""

from __future__ import annotations

import pytest
from tests.chart.rendering import scenarios


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "scenario" in metafunc.fixturenames:
        metafunc.parametrize("scenario", scenarios())
