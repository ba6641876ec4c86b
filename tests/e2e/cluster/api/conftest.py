"""The chart as objects, once for all tests of this folder: no container ever has to run."""

from __future__ import annotations

import pytest
from tests.e2e.cluster.kube import Kube


@pytest.fixture(scope="session")
def installed(api: Kube) -> Kube:
    """The chart with the operator, as objects: its hooks would need nodes."""
    api.install("--set", "operator.enabled=true")
    return api
