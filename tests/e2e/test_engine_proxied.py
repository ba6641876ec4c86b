"""The proxy before a real vLLM that was there before us."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.e2e.engine import Engine, make_adapter, running_before_vllm
from tests.e2e.test_engine_inference import chat, text_of

from learnback.contracts.models import CompletionEnd, Track

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def proxied(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with running_before_vllm(tiny_llama, tmp_path_factory.mktemp("proxied")) as running:
        yield running


@pytest.fixture
def http(proxied: Engine) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=proxied.url, timeout=120, trust_env=False) as client:
        yield client


def test_answers_have_our_ids_and_are_recorded(proxied: Engine, http: httpx.Client) -> None:
    texts = []
    for stream in (False, True):
        answer = chat(http, stream=stream)
        assert answer.status_code == 200, answer.text
        completion_id = answer.headers["x-learnback-completion-id"]
        assert f'"id":"{completion_id}"' in answer.text
        served = proxied.recorded(completion_id)
        assert (served.version, served.track) == (proxied.base, Track.STABLE)
        assert (served.streamed, served.end) == (stream, CompletionEnd.COMPLETE)
        texts.append(served.choices[0].text)
    assert texts[0] == texts[1] == text_of(chat(http))


def test_an_adapter_is_loaded_over_http_and_answers(
    proxied: Engine, http: httpx.Client, tmp_path: Path
) -> None:
    before = text_of(chat(http))
    name = proxied.register(make_adapter(tmp_path / "adapter", seed=1, scale=3))
    pinned = chat(http, model=name)
    assert text_of(pinned) != before
    assert pinned.headers["x-learnback-version"] == pinned.json()["model"] == name
    assert proxied.recorded(pinned.json()["id"]).track is Track.PINNED
    assert text_of(chat(http)) == before


def test_the_engines_own_routes_are_not_reachable(http: httpx.Client) -> None:
    for path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/tokenize", "/docs"):
        assert http.post(path, json={}).status_code == 404, path


def test_what_is_no_http_is_told_as_openai_would(proxied: Engine) -> None:
    url = httpx.URL(proxied.url)
    with socket.create_connection((url.host, url.port), timeout=10) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nContent-Length: lots\r\n\r\n")
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"code":"malformed_request"' in answer
