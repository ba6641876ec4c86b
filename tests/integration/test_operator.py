"""The operator between a cluster and the release process: real routes, real CRD, real Role."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import kopf
import kubernetes_validate
import pytest
from tests.conftest import wait_until
from tests.fake_cluster.api import serving
from tests.fake_cluster.crd import admission_of, unstructural
from tests.fake_cluster.state import FakeKubernetes, Object, Refused
from tests.integration.test_release_api import GOOD, NEWER, an_app
from tests.release_world import BASE, SHORT, World, a_world, always
from tests.rendered import one, rendered

from learnback.contracts.models import Scope, VersionState
from learnback.core.errors import Unavailable
from learnback.core.kubernetes import Cluster
from learnback.core.process import running
from learnback.ledger.keys import import_key
from learnback.operator.app import create_app
from learnback.operator.mirror import Mirror
from learnback.operator.releases import Releases
from learnback.operator.resource import MIRRORED
from learnback.operator.settings import OperatorSettings
from learnback.release.settings import ReleaseSettings

ON = "--set=operator.enabled=true"
KIND = ("learnback.dev/v1alpha1", "modelreleases")


@pytest.fixture(scope="session")
def crd() -> Object:
    return one(rendered(ON), "CustomResourceDefinition", "modelreleases.learnback.dev")


@pytest.fixture
def kubernetes(crd: Object) -> Iterator[FakeKubernetes]:
    with serving(FakeKubernetes()) as state:
        state.serve(*KIND, "ModelRelease", admission=admission_of(crd))
        state.roles = {"operator": one(rendered(ON), "Role", "lb-learnback-operator")["rules"]}
        yield state


@pytest.fixture
async def cluster(kubernetes: FakeKubernetes, tmp_path: Path) -> AsyncIterator[Cluster]:
    (tmp_path / "token").write_text("operator")
    found = Cluster(kubernetes.url, "learnback", token=tmp_path / "token")
    yield found
    await found.close()


@pytest.fixture
async def world(sqlite_database: Any, redis: Any, tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(sqlite_database, redis, tmp_path) as world:
        await world.prepare()
        yield world


@pytest.fixture
async def releases(world: World) -> AsyncIterator[Releases]:
    transport = httpx.ASGITransport(an_app(world))
    async with httpx.AsyncClient(transport=transport, base_url="http://release") as http:
        yield Releases(http)


@pytest.fixture
def mirror(cluster: Cluster, releases: Releases) -> Mirror:
    return Mirror(cluster, releases, poll_s=0.05)


def wish(kubernetes: FakeKubernetes, version: str, name: str = "mine", **spec: Any) -> Object:
    return kubernetes.create(
        *KIND, "learnback", {"metadata": {"name": name}, "spec": {"version": version, **spec}}
    )


def edit(kubernetes: FakeKubernetes, name: str, **spec: Any) -> Object:
    return kubernetes.change(*KIND, "learnback", name, {"spec": spec})


def condition(found: Object, kind: str) -> Object:
    return next(c for c in found["status"]["conditions"] if c["type"] == kind)


async def test_every_version_is_an_object_with_its_columns(
    mirror: Mirror, world: World, kubernetes: FakeKubernetes
) -> None:
    await world.candidate(GOOD, always(SHORT))
    await mirror.look()
    found = {o["spec"]["version"]: o for o in kubernetes.all("modelreleases")}
    assert set(found) == {BASE, GOOD}
    assert {o["metadata"]["labels"][MIRRORED] for o in found.values()} == {"true"}
    stable, candidate = found[BASE]["status"], found[GOOD]["status"]
    assert (stable["track"], stable["weight"], stable["phase"]) == ("stable", "100%", "Promoted")
    assert (candidate["weight"], candidate["phase"]) == ("0%", "Registered")
    assert condition(found[BASE], "Ready")["status"] == "True"
    assert condition(found[GOOD], "Accepted")["reason"] == "Mirrored"
    version = kubernetes.version
    await mirror.look()
    assert kubernetes.version == version, "a second look changes nothing"


async def test_a_promoted_version_shows_in_its_object(
    mirror: Mirror, world: World, kubernetes: FakeKubernetes
) -> None:
    await world.candidate(GOOD, always(SHORT))
    await mirror.look()
    await world.controller().look()
    await mirror.look()
    status = kubernetes.one("modelreleases", GOOD)["status"]
    assert (status["track"], status["weight"], status["verdict"]) == ("stable", "100%", "passed")
    assert status["observedGeneration"] == 1


async def test_making_an_object_asks_for_its_version_once(
    mirror: Mirror, world: World, kubernetes: FakeKubernetes, releases: Releases
) -> None:
    await world.candidate(GOOD)
    wish(kubernetes, GOOD)
    await mirror.look()
    asked = (await releases.http.get(f"/admin/v1/releases/{GOOD}")).json()["release"]
    assert asked["asked_reason"] == "asked for by ModelRelease mine"
    found = kubernetes.one("modelreleases", "mine")
    assert condition(found, "Accepted")["reason"] == "Asked"
    await mirror.look()
    again = (await releases.http.get(f"/admin/v1/releases/{GOOD}")).json()["release"]
    assert again["asked_at"] == asked["asked_at"]
    assert [o["metadata"]["name"] for o in kubernetes.all("modelreleases")] == [
        "mine",
        BASE,
    ], "a version that has an object gets no second one"


@pytest.mark.parametrize(
    ("version", "reason"), [("nobody-knows", "VersionUnknown"), (BASE, "Conflict")]
)
async def test_what_can_not_be_asked_for_says_why(
    mirror: Mirror, kubernetes: FakeKubernetes, version: str, reason: str
) -> None:
    wish(kubernetes, version)
    await mirror.look()
    accepted = condition(kubernetes.one("modelreleases", "mine"), "Accepted")
    assert (accepted["status"], accepted["reason"]) == ("False", reason)
    assert version in accepted["message"]


BY_HAND = {"steps": [{"traffic": "100%", "approval": "manual"}]}


async def waiting(world: World, releases: Releases) -> None:
    """The good version has passed the gate and waits for somebody's word."""
    await world.candidate(GOOD, always(SHORT))
    controller = world.controller(canary=BY_HAND)
    await controller.look()
    phase = (await releases.http.get(f"/admin/v1/releases/{GOOD}")).json()["phase"]
    assert phase == "AwaitingApproval"


async def test_editing_the_approval_lets_it_on(
    mirror: Mirror, world: World, kubernetes: FakeKubernetes, releases: Releases
) -> None:
    await waiting(world, releases)
    await mirror.look()
    assert kubernetes.one("modelreleases", GOOD)["status"]["phase"] == "AwaitingApproval"
    edit(kubernetes, GOOD, approval={"approved": True, "by": "anna", "reason": "read it"})
    await mirror.look()
    story = (await releases.http.get(f"/admin/v1/releases/{GOOD}")).json()
    said = story["release"]["approvals"][-1]
    assert said["approved"] is True
    assert said["reason"] == f"read it (by anna), in ModelRelease {GOOD}"
    await world.controller(canary=BY_HAND).look()
    await mirror.look()
    assert kubernetes.one("modelreleases", GOOD)["status"]["phase"] in ("Canary", "Promoted")


async def test_a_no_refuses_it_for_good(
    mirror: Mirror, world: World, kubernetes: FakeKubernetes, releases: Releases
) -> None:
    await waiting(world, releases)
    await mirror.look()
    edit(kubernetes, GOOD, approval={"approved": False, "reason": "it swears"})
    await mirror.look()
    assert (await world.version(GOOD)).state is VersionState.REFUSED
    await mirror.look()
    assert kubernetes.one("modelreleases", GOOD)["status"]["phase"] == "Refused"


async def test_times_of_conditions_move_only_with_their_status(
    mirror: Mirror, world: World, kubernetes: FakeKubernetes
) -> None:
    await world.candidate(GOOD, always(SHORT))
    await mirror.look()
    old = {"lastTransitionTime": "2000-01-01T00:00:00Z"}
    found = kubernetes.one("modelreleases", GOOD)
    for each in found["status"]["conditions"]:
        each |= old
    at = (*KIND, "learnback", GOOD)
    kubernetes.change(*at, {"status": found["status"]}, subresource="status")
    await world.controller().look()
    await mirror.look()
    found = kubernetes.one("modelreleases", GOOD)
    assert condition(found, "Accepted")["lastTransitionTime"] == old["lastTransitionTime"]
    assert condition(found, "Ready")["lastTransitionTime"] > old["lastTransitionTime"]


async def test_a_release_process_that_is_away_leaves_objects_alone(
    mirror: Mirror, cluster: Cluster, kubernetes: FakeKubernetes
) -> None:
    await mirror.look()
    version = kubernetes.version
    async with httpx.AsyncClient(base_url="http://127.0.0.1:9") as nobody:
        with pytest.raises(Unavailable):
            await Mirror(cluster, Releases(nobody), 1.0).look()
    assert kubernetes.version == version


async def test_it_is_ready_before_its_key_is_registered_and_not_without_a_key_for_ever(
    cluster: Cluster, world: World
) -> None:
    """An install registers its keys when every pod is ready; decision 0042."""
    key = f"lb_{'0' * 16}_{'x' * 43}"
    transport = httpx.ASGITransport(an_app(world, host="0.0.0.0"))
    async with httpx.AsyncClient(transport=transport, base_url="http://release") as http:
        mirror = Mirror(cluster, Releases(http, key), poll_s=0.05)
        assert await mirror.check(), "no look was taken yet"
        async with running(loops=[mirror.run_forever]):

            async def ready() -> bool:
                return await mirror.check() is None

            async def unready() -> bool:
                return not await ready()

            await wait_until(ready, "a new key may be unknown")
            mirror.key_until = time.monotonic()
            await wait_until(unready, "its time is over")
            async with world.database.write() as connection:
                await import_key(connection, key, "default", "operator", [Scope.RELEASE])
            await wait_until(ready, "the key is known")
            assert mirror.key_until is None


async def test_the_process_reacts_to_an_edit_without_waiting_for_its_turn(
    cluster: Cluster, releases: Releases, world: World, kubernetes: FakeKubernetes
) -> None:
    """With an hour between looks, only kopf's watch can tell it. The chart's Role is enough."""
    await world.candidate(GOOD)
    settings = OperatorSettings(poll=timedelta(hours=1))
    info = kopf.ConnectionInfo(server=kubernetes.url, scheme="Bearer", token="operator")
    app = create_app(settings, cluster=cluster, releases=releases, login=lambda: info)
    async with app.router.lifespan_context(app):
        await wait_until(lambda: len(kubernetes.all("modelreleases")) == 2, "all are mirrored")
        # the mirror lists once a look, kopf once and then watches
        await wait_until(lambda: kubernetes.watching == {"modelreleases"}, "kopf watches")
        wish(kubernetes, NEWER)

        def answered() -> bool:
            found = kubernetes.one("modelreleases", "mine")
            return "status" in found and condition(found, "Accepted")["status"] == "False"

        await wait_until(answered, "the new object has its status")
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://t") as http:
            assert (await http.get("/readyz")).status_code == 200
            assert "learnback_operator_objects 3.0" in (await http.get("/metrics")).text
    kept = kubernetes.one("modelreleases", "mine")
    assert "annotations" not in kept["metadata"], "the operator writes status only"


def test_the_release_stays_with_its_version(kubernetes: FakeKubernetes) -> None:
    wish(kubernetes, GOOD)
    with pytest.raises(Refused, match="stays with its version"):
        edit(kubernetes, "mine", version=NEWER)
    edit(kubernetes, "mine", approval={"approved": True})


def test_a_no_needs_a_reason_and_stays(kubernetes: FakeKubernetes) -> None:
    wish(kubernetes, GOOD)
    with pytest.raises(Refused, match="a no needs a reason"):
        edit(kubernetes, "mine", approval={"approved": False})
    edit(kubernetes, "mine", approval={"approved": False, "reason": "it swears"})
    with pytest.raises(Refused, match="a no is for good"):
        edit(kubernetes, "mine", approval={"approved": True})


@pytest.mark.parametrize("version", ["", "../x", "a" * 201])
def test_a_senseless_version_is_refused(kubernetes: FakeKubernetes, version: str) -> None:
    with pytest.raises(Refused, match="version"):
        wish(kubernetes, version)


def test_the_crd_is_structural_and_shows_what_kubectl_shall_show(crd: Object) -> None:
    kubernetes_validate.validate(crd, "1.37", strict=True)
    version = crd["spec"]["versions"][0]
    assert list(unstructural(version["schema"]["openAPIV3Schema"])) == []
    columns = [c["name"] for c in version["additionalPrinterColumns"]]
    assert columns[:5] == ["Version", "Track", "Weight", "Phase", "Verdict"]
    assert crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_it_may_touch_nothing_that_the_chart_renders() -> None:
    rules = one(rendered(ON), "Role", "lb-learnback-operator")["rules"]
    assert {g for rule in rules for g in rule["apiGroups"]} == {"learnback.dev"}
    assert not {v for rule in rules for v in rule["verbs"]} & {"*", "delete", "update"}


def test_it_is_off_by_default() -> None:
    objects = rendered()
    assert not [o for o in objects if o["kind"] == "CustomResourceDefinition"]
    assert not [o for o in objects if o["metadata"]["name"].endswith("-operator")]


def test_the_deployment_is_valid_and_has_the_settings_that_there_are() -> None:
    found = one(rendered(ON), "Deployment", "lb-learnback-operator")
    kubernetes_validate.validate(found, "1.37", strict=True)
    pod = found["spec"]["template"]["spec"]
    prefix = "LEARNBACK_OPERATOR_"
    names = [e["name"] for e in pod["containers"][0]["env"] if e["name"].startswith(prefix)]
    assert {n.removeprefix(prefix).lower() for n in names} <= set(OperatorSettings.model_fields)
    port = pod["containers"][0]["ports"][0]["containerPort"]
    assert port == OperatorSettings.model_fields["port"].default
    assert pod["automountServiceAccountToken"] is True
    assert ReleaseSettings.model_fields["port"].default == 8004
