"""One installation for all tests of this folder."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import replace

import pytest
from tests.conftest import NOT_RUN
from tests.e2e.cluster.kube import CRD, RELEASE, Kube
from tests.rendered import ROOT


def _namespace() -> Kube:
    """A new namespace that enforces Pod Security `restricted`."""
    if not os.environ.get("KUBECONFIG"):
        pytest.skip(f"{NOT_RUN}tests/e2e/cluster: no cluster, set KUBECONFIG (k8s/README.md)")
    kube = Kube(f"learnback-e2e-{uuid.uuid4().hex[:8]}")
    kube.kubectl("create", "namespace", kube.namespace)
    label = "pod-security.kubernetes.io/enforce=restricted"
    kube.kubectl("label", "namespace", kube.namespace, label)
    return kube


@pytest.fixture(scope="session")
def api() -> Iterator[Kube]:
    """A namespace for what needs an API server and no node."""
    kube = _namespace()
    account = ("serviceaccount", "default")  # a controller makes it, where there is one
    waited = ("wait", "--for=create", "/".join(account), "--timeout=10s")
    if not kube.kubectl(*waited, check=False):
        kube = replace(kube, controllers=False)
        kube.kubectl("create", *account)
    there = kube.kubectl("get", "crd", CRD, "--ignore-not-found", "-o", "name")
    yield kube
    kube.helm("uninstall", RELEASE, "--no-hooks", "--ignore-not-found")
    if not there:
        kube.kubectl("delete", "crd", CRD, "--ignore-not-found")
    kube.kubectl("delete", "namespace", kube.namespace, "--wait=false")


@pytest.fixture(scope="session")
def empty() -> Iterator[Kube]:
    """A namespace of a cluster with nodes, with the development database."""
    kube = _namespace()
    if not kube.all("nodes"):
        kube.kubectl("delete", "namespace", kube.namespace, "--wait=false")
        pytest.skip(f"{NOT_RUN}tests/e2e/cluster/test_cluster.py: the cluster has no nodes")
    kube.kubectl("apply", "-f", str(ROOT / "k8s" / "dev" / "postgres.yaml"))
    kube.kubectl("rollout", "status", "statefulset/dev-postgres", "--timeout=300s")
    yield kube
    kube.helm("uninstall", RELEASE, "--wait")
    kube.kubectl("delete", "namespace", kube.namespace, "--wait=false")


@pytest.fixture(scope="session")
def installed(empty: Kube) -> tuple[Kube, str]:
    """The chart of this working tree, and what Helm said."""
    return empty, empty.upgrade()


@pytest.fixture
def kube(installed: tuple[Kube, str]) -> Kube:
    """The installation."""
    return installed[0]
