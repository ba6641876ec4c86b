"""ModelRelease: the CRD's own rules, and the operator under its own Role."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import kopf
import pytest
from tests.conftest import wait_until
from tests.e2e.cluster.kube import RELEASE, Kube
from tests.integration.test_release_api import GOOD, NEWER, an_app
from tests.release_world import BASE, World, a_world

from learnback.operator.app import create_app
from learnback.operator.releases import Releases
from learnback.operator.settings import OperatorSettings

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("cluster")]
Object = dict[str, Any]


def release_object(version: str, **spec: Any) -> Object:
    return {
        "apiVersion": "learnback.dev/v1alpha1",
        "kind": "ModelRelease",
        "metadata": {"name": "mine"},
        "spec": {"version": version, **spec},
    }


@pytest.fixture
def no_releases(installed: Kube) -> Iterator[Kube]:
    installed.kubectl("delete", "modelreleases", "--all")
    yield installed
    installed.kubectl("delete", "modelreleases", "--all")


def test_the_servers_cel_keeps_a_release_with_its_version_and_a_no_final(no_releases: Kube) -> None:
    kube = no_releases
    kube.apply(release_object("v1"))
    patch = partial(kube.refused, "patch", "modelrelease", "mine", "--type=merge", "-p")
    assert "stays with its version" in patch('{"spec": {"version": "v2"}}')
    assert "a no needs a reason" in patch('{"spec": {"approval": {"approved": false}}}')
    no = '{"spec": {"approval": {"approved": false, "reason": "it swears"}}}'
    kube.kubectl("patch", "modelrelease", "mine", "--type=merge", "-p", no)
    assert "a no is for good" in patch('{"spec": {"approval": {"approved": true}}}')
    assert "a no is for good" in patch('{"spec": {"approval": null}}')
    bad = release_object("../x") | {"metadata": {"name": "bad"}}
    assert "spec.version" in kube.refused("create", "-f", "-", text=json.dumps(bad))


@pytest.fixture
async def world(sqlite_database: Any, redis: Any, tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(sqlite_database, redis, tmp_path) as world:
        await world.prepare()
        yield world


async def test_the_operator_mirrors_versions_and_reacts_to_an_edit(
    no_releases: Kube, world: World, tmp_path: Path
) -> None:
    """Under its own Role; with an hour between looks only kopf's watch can tell it of the edit."""
    kube = no_releases
    await world.candidate(GOOD)
    cluster = kube.client("operator", tmp_path)
    login = kopf.ConnectionInfo(
        server=kube.server["server"],
        insecure=kube.server.get("insecure-skip-tls-verify", False),
        ca_data=kube.server.get("certificate-authority-data"),
        scheme="Bearer",
        token=kube.token(f"{RELEASE}-operator"),
    )
    transport = httpx.ASGITransport(an_app(world))
    async with httpx.AsyncClient(transport=transport, base_url="http://release") as http:
        app = create_app(
            OperatorSettings(poll=timedelta(hours=1)),
            cluster=cluster,
            releases=Releases(http),
            login=lambda: login,
            close=[cluster.close],
        )
        async with app.router.lifespan_context(app):
            await wait_until(lambda: len(kube.all("modelreleases")) == 2, "all are mirrored")
            kube.apply(release_object(NEWER))

            def answered() -> bool:
                status = kube.get("modelrelease", "mine").get("status", {})
                return "False" in {c["status"] for c in status.get("conditions", [])}

            await wait_until(answered, "the new object has its status")
    table = kube.kubectl("get", "modelreleases")
    assert table.split()[:7] == ["NAME", "VERSION", "TRACK", "WEIGHT", "PHASE", "VERDICT", "AGE"]
    (stable,) = [line for line in table.splitlines() if BASE in line]
    assert "stable" in stable
    assert "100%" in stable
