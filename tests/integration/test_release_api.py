"""The release API: the story of a version, promote, roll back, and who may."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.release_world import BASE, SHORT, World, a_world, always, held_out_texts

from learnback.contracts.models import Scope, VersionState
from learnback.core.bus import create_groups
from learnback.core.clock import now
from learnback.core.settings import CommonSettings
from learnback.ledger import completions
from learnback.ledger.keys import create_key
from learnback.registry import store
from learnback.release.app import create_app, register_base
from learnback.release.settings import ReleaseSettings

GOOD, NEWER = "tiny-dpo-000000000001", "tiny-dpo-000000000002"
YES = {"approved": True, "reason": "read the answers"}


@pytest.fixture
async def world(database: Any, redis: Any, tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(database, redis, tmp_path) as world:
        await world.prepare()
        yield world


def an_app(world: World, host: str = "127.0.0.1", **settings: Any) -> Any:
    common = CommonSettings(home=world.folder, artifacts_url=f"file://{world.folder / 'artifacts'}")
    return create_app(
        ReleaseSettings(inference_url="http://engine", host=host, **settings),
        common,
        database=world.database,
        redis=world.redis,
        client=world.client,
    )


@pytest.fixture
async def client(world: World) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(an_app(world))
    async with httpx.AsyncClient(transport=transport, base_url="http://t/admin/v1") as client:
        yield client


async def test_a_version_tells_its_whole_story(world: World, client: httpx.AsyncClient) -> None:
    await world.candidate(GOOD, always(SHORT), run_id="run_1", dataset_fingerprint="f" * 64, seed=7)
    await world.controller().look()

    listed = (await client.get("/releases")).json()
    assert (listed["stable"]["version"], listed["stable"]["revision"]) == (GOOD, 2)
    by_name = {v["name"]: v for v in listed["versions"]}
    assert (by_name[GOOD]["state"], by_name[GOOD]["verdict"]) == ("promoted", "passed")

    story = (await client.get(f"/releases/{GOOD}")).json()
    assert (story["version"]["run_id"], story["version"]["seed"]) == ("run_1", 7)
    assert story["version"]["gate_report"]["evaluation"]["wins"] == 40
    moves = [(m["alias"], m["version"], m["actor"]) for m in reversed(story["history"])]
    assert moves[0] == ("candidate", GOOD, "canary"), "loaded before anybody gets it"
    assert ("stable", GOOD, "gate") in moves
    history = (await client.get("/history")).json()
    assert [m["version"] for m in history["moves"]] == [GOOD, BASE]


async def test_what_served_at_any_moment(world: World, client: httpx.AsyncClient) -> None:
    before = now().isoformat()
    await world.candidate(GOOD, always(SHORT))
    await world.controller().look()
    served = (await client.get("/serving")).json()
    assert (served["stable"]["version"], served["candidate"]) == (GOOD, None)
    earlier = (await client.get("/serving", params={"at": before})).json()
    assert earlier["stable"]["version"] == BASE
    assert (await client.get("/serving", params={"at": "soon"})).status_code == 422


async def test_promote_and_roll_back(world: World, client: httpx.AsyncClient) -> None:
    await world.candidate(GOOD)
    body = {"version": GOOD, "reason": "by hand"}
    refused = await client.post("/promote", json=body)
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    assert (await world.stable()).version == BASE

    moved = await client.post("/promote", json=body | {"force": True, "expected_revision": 1})
    assert (moved.status_code, moved.json()["version"]) == (200, GOOD)
    back = await client.post("/rollback", json={"reason": "it swears"})
    assert (back.status_code, back.json()["version"]) == (200, BASE)
    assert (await world.version(GOOD)).state is VersionState.ROLLED_BACK
    again = await client.post("/rollback", json={"reason": "more"})
    assert again.status_code == 409


async def test_an_asked_version_goes_before_newer_ones(
    world: World, client: httpx.AsyncClient
) -> None:
    await world.candidate(GOOD, always(SHORT))
    await world.candidate(NEWER, always(SHORT))
    asked = await client.post("/releases", json={"version": GOOD, "reason": "a resource says so"})
    assert (asked.status_code, asked.json()["phase"]) == (202, "Registered")
    assert asked.json()["release"]["asked_reason"] == "a resource says so"
    await world.controller().look()

    told = (await client.get(f"/releases/{GOOD}")).json()
    assert (told["phase"], told["verdict"]) == ("Promoted", "passed")
    assert (told["track"], told["weight"]) == ("stable", 1.0)
    assert told["revision"] > asked.json()["revision"]
    newer = (await client.get(f"/releases/{NEWER}")).json()
    assert (newer["phase"], newer["track"], newer["weight"]) == ("Registered", None, 0.0)


async def test_a_refused_version_is_judged_again_when_somebody_asks(
    world: World, client: httpx.AsyncClient
) -> None:
    await world.candidate(GOOD, world.engine.says[BASE])
    await world.controller().look()
    assert (await client.get(f"/releases/{GOOD}")).json()["phase"] == "Refused"
    world.engine.says[GOOD] = always(SHORT)
    again = await client.post("/releases", json={"version": GOOD, "reason": "mended"})
    assert (again.status_code, again.json()["phase"]) == (202, "Registered")


async def test_approval_lets_a_version_on(world: World, client: httpx.AsyncClient) -> None:
    await world.candidate(GOOD, always(SHORT))
    early = await client.post(f"/releases/{GOOD}/approval", json=YES)
    assert early.status_code == 409
    controller = world.controller(canary={"steps": [{"traffic": "100%", "approval": "manual"}]})
    await controller.look()
    waiting = (await client.get(f"/releases/{GOOD}")).json()
    assert (waiting["phase"], waiting["release"]["awaiting_step"]) == ("AwaitingApproval", 0)

    stale = YES | {"expected_revision": waiting["revision"] - 1}
    assert (await client.post(f"/releases/{GOOD}/approval", json=stale)).status_code == 409
    fresh = YES | {"expected_revision": waiting["revision"]}
    approved = await client.post(f"/releases/{GOOD}/approval", json=fresh)
    assert (approved.status_code, approved.json()["phase"]) == (200, "Canary")
    await controller.look()
    told = (await client.get(f"/releases/{GOOD}")).json()
    assert (told["phase"], told["version"]["approved_by"]) == ("Promoted", "operator")
    (kept,) = told["release"]["approvals"]
    assert (kept["approved"], kept["by"], kept["reason"]) == (True, "operator", "read the answers")


async def test_a_persons_no_refuses_for_good(world: World, client: httpx.AsyncClient) -> None:
    await world.candidate(GOOD, always(SHORT))
    controller = world.controller(canary={"steps": [{"traffic": "100%", "approval": "manual"}]})
    await controller.look()
    said = await client.post(
        f"/releases/{GOOD}/approval", json={"approved": False, "reason": "it is rude"}
    )
    assert (said.json()["phase"], said.json()["verdict"]) == ("Refused", "refused")
    assert "it is rude" in said.json()["reasons"][0]
    await controller.look()
    assert (await world.stable()).version == BASE


@pytest.mark.parametrize(
    ("path", "body", "status", "field"),
    [
        ("/releases", {"version": GOOD}, 422, "reason"),
        ("/releases", {"version": "nobody", "reason": "r"}, 404, None),
        ("/releases", {"version": BASE, "reason": "r"}, 409, "version"),
        ("/releases", {"version": "tiny-reward-0", "reason": "r"}, 422, "version"),
        (f"/releases/{BASE}/approval", {"approved": True, "reason": "r"}, 409, None),
        (f"/releases/{BASE}/approval", {"approved": "perhaps", "reason": "r"}, 422, "approved"),
        ("/releases/nobody/approval", {"approved": True, "reason": "r"}, 404, None),
        ("/promote", {}, 422, "version"),
        ("/promote", {"version": GOOD}, 422, "reason"),
        ("/promote", {"version": "nobody", "reason": "r"}, 404, None),
        ("/promote", {"version": "../x", "reason": "r"}, 422, "version"),
        ("/promote", {"version": "a\u0000b", "reason": "r"}, 422, "version"),
        ("/promote", {"version": BASE, "reason": "a\u0000b"}, 422, "reason"),
        ("/promote", {"version": BASE, "reason": ""}, 422, "reason"),
        ("/promote", {"version": BASE, "reason": "r", "extra": 1}, 422, "extra"),
        ("/promote", {"version": BASE, "reason": "r", "expected_revision": 1e30}, 422, None),
        ("/promote", {"version": "tiny-reward-0", "reason": "r", "force": True}, 422, "version"),
        ("/promote", [], 422, None),
        ("/rollback", {"reason": "r", "to": "nobody"}, 409, "to"),
        ("/rollback", {"reason": 3}, 422, "reason"),
    ],
)
async def test_bad_requests_are_explained_and_change_nothing(
    world: World, client: httpx.AsyncClient, path: str, body: Any, status: int, field: str | None
) -> None:
    answer = await client.post(path, json=body)
    said = answer.json()
    assert (answer.status_code, said["status"]) == (status, status)
    if field is not None:
        assert field in {e["field"] for e in said["errors"]}
    assert (await world.stable()).revision == 1


@pytest.mark.parametrize("path", ["/releases/nobody", "/releases/%00", "/releases/a%20b"])
async def test_unknown_versions_are_not_found(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code in {404, 422}


async def test_only_admins_may_where_keys_are_asked_for(world: World) -> None:
    async with world.database.write() as c:
        _, admin = await create_key(c, "default", "a", [Scope.ADMIN])
        _, user = await create_key(c, "default", "u", [Scope.INFER, Scope.FEEDBACK])
    transport = httpx.ASGITransport(an_app(world, host="0.0.0.0"))
    async with httpx.AsyncClient(transport=transport, base_url="http://t") as client:
        for key, status in ((None, 401), ("lb_wrong", 401), (user, 403), (admin, 200)):
            headers = {"authorization": f"Bearer {key}"} if key else {}
            for path in ("/admin/v1/releases", "/admin/v1/history"):
                assert (await client.get(path, headers=headers)).status_code == status
        moved = await client.post(
            "/admin/v1/promote",
            json={"version": BASE, "reason": "r"},
            headers={"authorization": f"Bearer {user}"},
        )
        assert moved.status_code == 403
        assert (await client.get("/healthz")).status_code == 200


async def test_the_process_starts_judges_and_reports_ready(world: World) -> None:
    from tests.conftest import wait_until

    await create_groups(world.redis)
    await world.candidate(GOOD, always(SHORT))
    app = an_app(world)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://t") as client,
    ):

        async def promoted() -> bool:
            story = (await client.get(f"/admin/v1/releases/{GOOD}")).json()
            return story["version"]["state"] == "promoted" and story["progress"]["percent"] == 100

        await wait_until(promoted, "the candidate was promoted")

        async def ready() -> bool:
            return (await client.get("/readyz")).status_code == 200

        await wait_until(ready, "the process is ready")
        shown = (await client.get("/metrics")).text
        assert 'learnback_release_verdicts_total{verdict="passed"}' in shown


async def test_the_base_is_registered_and_served(database: Any, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    await register_base(database, str(model))
    await register_base(database, str(model))
    await register_base(database, "")
    async with database.read() as c:
        release = await store.release(c)
        assert release.stable.revision == 1
        assert [v.name for v in await store.list_versions(c)] == [release.stable.version]


async def test_a_base_whose_folder_is_mounted_elsewhere_is_left_to_who_reads_it(
    database: Any,
) -> None:
    """Its digest is of its files: of the name alone it would be another base model."""
    await register_base(database, "/models/mounted-elsewhere")
    async with database.read() as c:
        assert await store.list_versions(c) == []


async def test_the_report_of_an_evaluation_is_read_as_html_or_markdown(
    world: World, client: httpx.AsyncClient
) -> None:
    await world.candidate(GOOD, always(SHORT))
    await world.controller().look()
    url = f"/releases/{GOOD}/report"
    markdown = await client.get(url)
    assert markdown.headers["content-type"].startswith("text/markdown")
    assert f"{GOOD} against {BASE}" in markdown.text.replace("\\", "")
    assert markdown.text.count("Tell me about number") == 10
    html = await client.get(url, headers={"Accept": "text/html"})
    assert html.headers["content-type"].startswith("text/html")
    assert html.text.count("<svg") == 3
    assert (await client.get(f"/releases/{BASE}/report")).status_code == 404
    assert (await client.get("/releases/nobody/report")).status_code == 404


async def test_an_erased_prompt_is_in_no_report(world: World, client: httpx.AsyncClient) -> None:
    await world.candidate(GOOD, always(SHORT))
    await world.controller().look()
    url = f"/releases/{GOOD}/report"
    shown = set(re.findall(r"number \d+", (await client.get(url)).text))
    texts = held_out_texts(40)
    async with world.database.write() as connection:
        for number, text in enumerate(texts):
            if any(text.endswith(f"{name}.") for name in shown):
                await completions.erase(connection, "default", f"chatcmpl-{number:08d}")
    after = set(re.findall(r"number \d+", (await client.get(url)).text))
    assert len(after) == 10
    assert not after & shown
