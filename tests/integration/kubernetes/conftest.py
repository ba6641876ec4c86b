"""An API server in our process, a controller of its Jobs, and a run to be made a Job of."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.cluster_jobs import RULES, TEMPLATE, launching, training
from tests.fake_cluster.api import serving
from tests.fake_cluster.jobs import JobController
from tests.fake_cluster.state import FakeKubernetes

from learnback.core.kubernetes import Cluster
from learnback.retraining.kubernetes_launcher import KubernetesLauncher


@pytest.fixture
def kubernetes() -> Iterator[FakeKubernetes]:
    with serving(FakeKubernetes()) as state:
        yield state


@pytest.fixture
def controller(kubernetes: FakeKubernetes) -> Iterator[JobController]:
    found = JobController(kubernetes)
    yield found
    found.close()


@pytest.fixture
async def cluster(kubernetes: FakeKubernetes, tmp_path: Path) -> AsyncIterator[Cluster]:
    token = tmp_path / "token"
    token.write_text("retraining\n")
    kubernetes.roles = {"retraining": RULES}
    found = Cluster(kubernetes.url, "learnback", token=token)
    yield found
    await found.close()


@pytest.fixture
def launcher(cluster: Cluster, controller: JobController, tmp_path: Path) -> KubernetesLauncher:
    return launching(cluster, tmp_path, TEMPLATE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "runs" / "run_01ab"
    found.mkdir(parents=True)
    (found / "run.json").write_text(json.dumps({"run_id": "run_01ab", "seed": 0}))
    return found


@pytest.fixture
async def under_way(
    launcher: KubernetesLauncher, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The folder of a run whose job trains until a file `go` appears in it."""
    monkeypatch.setenv("QUICK_JOB", "wait")
    await launcher.start(folder)
    await training(launcher, folder)
    return folder
