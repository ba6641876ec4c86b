"""Who asks too often, or with wrong keys, is told when to come again; others notice nothing."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from prometheus_client import REGISTRY

from learnback.core.errors import Unauthenticated
from learnback.core.http import BodyLimits, add_error_handlers, add_health_routes
from learnback.core.limits import limit_requests
from learnback.core.settings import CommonSettings

RIGHT = {"authorization": "Bearer right"}
WRONG = {"authorization": "Bearer wrong"}


async def admit(header: str | None) -> None:
    if header != RIGHT["authorization"]:
        raise Unauthenticated("Not a key.")


@pytest.fixture
def app() -> FastAPI:
    """Ten requests at once for each caller, and three wrong keys for each address."""
    app = FastAPI()

    @app.get("/things")
    async def things(request: Request) -> str:
        await admit(request.headers.get("authorization"))
        return "things"

    @app.post("/things")
    async def more(body: dict[str, Any]) -> str:
        return "more"

    add_error_handlers(app)
    app.add_middleware(BodyLimits, max_bytes=100, max_seconds=5, admit=admit)
    limit_requests(app, CommonSettings(requests_per_s=2, failed_keys_per_s=0.1))
    add_health_routes(app, {})
    return app


def client(app: FastAPI, address: str = "10.0.0.1") -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=app, client=(address, 1234))
    return httpx.AsyncClient(transport=transport, base_url="http://test")


def refused(method: str, status: int) -> float:
    labels = {"method": method, "route": "unknown", "status": str(status)}
    return REGISTRY.get_sample_value("learnback_http_requests_total", labels) or 0.0


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_address_with_wrong_keys_is_told_to_wait_and_its_right_key_passes(
    app: FastAPI, method: str
) -> None:
    async with client(app) as http, client(app, "10.0.0.2") as other:
        said = [await http.request(method, "/things", json={}, headers=WRONG) for _ in range(5)]
        assert [one.status_code for one in said] == [401, 401, 401, 429, 429]
        assert said[-1].headers["content-type"] == "application/problem+json"
        assert 1 <= int(said[-1].headers["retry-after"]) <= 10
        assert said[-1].json()["instance"] == "/things"
        assert (await http.request(method, "/things", json={}, headers=RIGHT)).is_success
        assert (await other.request(method, "/things", json={}, headers=WRONG)).status_code == 401


async def test_a_key_that_asks_too_often_waits_wherever_it_comes_from(app: FastAPI) -> None:
    async with client(app) as http, client(app, "10.0.0.2") as other:
        said = [(await http.get("/things", headers=RIGHT)).status_code for _ in range(10)]
        assert said == [200] * 10
        assert (await other.get("/things", headers=RIGHT)).status_code == 429
        assert (await http.get("/healthz")).status_code == 200


async def test_what_the_app_never_sees_is_counted(app: FastAPI) -> None:
    before = {status: refused("POST", status) for status in (401, 413, 429)}
    async with client(app) as http:
        for _ in range(4):
            await http.post("/things", json={}, headers=WRONG)
        await http.post("/things", content=b"x" * 200, headers=RIGHT)
    counted = {status: refused("POST", status) - count for status, count in before.items()}
    assert counted == {401: 3, 413: 1, 429: 1}
