"""The OpenAPI document, and whatever Schemathesis makes of it: never a 500."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from tests.feedback_service import Live, a_completion, live

from learnback.contracts.streams import COMPLETIONS
from learnback.core.bus import encode
from learnback.feedback.app import create_app
from learnback.feedback.examples import EXAMPLES
from learnback.feedback.settings import FeedbackSettings
from learnback.ledger.database import Database
from learnback.ledger.keys import KeyRing

KNOWN = "chatcmpl-0193a1b2c3d47e5f8a9b0c1d2e3f4a5b"


def document() -> dict[str, Any]:
    """The OpenAPI document; nothing is connected to."""
    database = Database("sqlite:///:memory:")
    app = create_app(FeedbackSettings(), database, None, KeyRing(database), require_keys=False)  # type: ignore[arg-type]
    return app.openapi()


schema = schemathesis.openapi.from_dict(document())


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, valkey_url: str
) -> Iterator[Live]:
    url = f"sqlite:///{tmp_path_factory.mktemp('ledger') / 'ledger.db'}"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_url")
    limits = FeedbackSettings(rate_per_s=1e6, rate_burst=10**6, max_body_bytes=100_000)
    with live(url, valkey_url, settings=limits) as running:
        import redis

        client = redis.Redis.from_url(valkey_url)
        client.xadd(COMPLETIONS.key, encode(a_completion(id=KNOWN)))  # type: ignore[arg-type]
        client.close()
        yield running


@schema.parametrize()
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
    derandomize=True,
)
def test_no_request_is_answered_with_a_500(case: Any, served: Live) -> None:
    response = case.call(base_url=served.url, timeout=30)
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        assert response.headers["content-type"] == ["application/problem+json"], response.text
        assert response.json()["detail"]


def test_the_document_describes_every_route_and_kind() -> None:
    paths = document()["paths"]
    assert sorted(paths) == [
        "/v1/completions",
        "/v1/completions/{completion_id}",
        "/v1/feedback",
        "/v1/feedback/batch",
        "/v1/feedback/{feedback_id}",
    ]
    body = paths["/v1/feedback"]["post"]["requestBody"]["content"]["application/json"]
    assert len(body["schema"]["oneOf"]) == 6
    assert {example["value"]["kind"] for example in body["examples"].values()} == set(
        body["schema"]["discriminator"]["mapping"]
    )
    for path, routes in paths.items():
        for method, route in routes.items():
            assert route["description"], f"{method} {path}"
            assert {"401", "403", "422"} <= set(route["responses"])


def test_no_schema_names_our_machinery() -> None:
    assert not re.search(r"<\w+>", str(document()["components"]))


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_is_taken(name: str, served: Live, tmp_path: Path) -> None:
    import httpx

    response = httpx.post(f"{served.url}/v1/feedback", json=EXAMPLES[name]["value"])
    assert response.status_code == 202, response.text
