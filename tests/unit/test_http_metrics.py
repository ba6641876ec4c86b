"""What is counted of our own HTTP APIs, and of readiness."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import REGISTRY

from learnback.core.errors import Unavailable
from learnback.core.http import BodyLimits, add_error_handlers, add_health_routes


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    add_error_handlers(app)

    @app.get("/counted/{name}")
    async def counted(name: str) -> str:
        if name == "away":
            raise Unavailable("The ledger is away.")
        if name == "bug":
            raise ValueError("a bug")
        return name

    async def fine() -> str | None:
        return None

    async def broken() -> str | None:
        return "it is away"

    add_health_routes(app, {"counted-fine": fine, "counted-broken": broken})
    app.add_middleware(BodyLimits, max_bytes=1000, max_seconds=5.0)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as opened:
        yield opened


def requests(method: str, route: str, status: int) -> float:
    labels = {"method": method, "route": route, "status": str(status)}
    return REGISTRY.get_sample_value("learnback_http_requests_total", labels) or 0.0


@pytest.mark.parametrize(("name", "status"), [("one", 200), ("away", 503), ("bug", 500)])
async def test_requests_count_by_template_and_status(
    client: httpx.AsyncClient, name: str, status: int
) -> None:
    before = requests("GET", "/counted/{name}", status)
    assert (await client.get(f"/counted/{name}")).status_code == status
    assert requests("GET", "/counted/{name}", status) == before + 1


async def test_each_request_is_timed_once(client: httpx.AsyncClient) -> None:
    labels = {"method": "GET", "route": "/counted/{name}"}
    name = "learnback_http_request_seconds_count"
    before = REGISTRY.get_sample_value(name, labels) or 0.0
    await client.get("/counted/one")
    assert REGISTRY.get_sample_value(name, labels) == before + 1


async def test_labels_stay_bounded_whatever_is_asked(client: httpx.AsyncClient) -> None:
    before = requests("other", "unknown", 404)
    for word in ("BREW", "KNIT"):
        await client.request(word, f"/nowhere/{word}")
    assert requests("other", "unknown", 404) == before + 2


async def test_probes_are_not_among_the_requests(client: httpx.AsyncClient) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        await client.get(path)
    page = (await client.get("/metrics")).text
    assert not [line for line in page.splitlines() if 'route="/readyz"' in line]


async def test_each_readiness_check_shows_by_name(client: httpx.AsyncClient) -> None:
    await client.get("/readyz")
    for check, passed in (("counted-fine", 1.0), ("counted-broken", 0.0)):
        found = REGISTRY.get_sample_value("learnback_health_check_passed", {"check": check})
        assert found == passed
