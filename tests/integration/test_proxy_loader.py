"""Adapters of engines behind the proxy, over their own admin route."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.fake_sglang import SGLang
from tests.inference_server import add_adapter, inference_server, serve_app, wait_recorded
from tests.scripted_engine import Call, engine

from learnback.core.errors import Unavailable
from learnback.inference.errors import VersionUnavailable
from learnback.inference.loaders import HttpLoader
from learnback.inference.upstream_connection import EngineUnreachable


class Admin:
    """An engine that keeps adapters by name, as vLLM does."""

    def __init__(self) -> None:
        self.adapters: dict[str, str] = {}
        self.loads = 0
        self.used: list[str] = []
        self.broken = ""
        """Why no adapter answers, though it is listed."""

    async def __call__(self, call: Call) -> None:
        if call.target == "/v1/models":
            cards = [{"id": name} for name in ("base", *self.adapters)]
            await call.answer(json.dumps({"data": cards}).encode())
            return
        asked = json.loads(call.body)
        if call.target == "/v1/completions":
            self.used.append(asked["model"])
            error = json.dumps({"error": {"message": self.broken}}).encode()
            await (call.answer(error, 500) if self.broken else call.answer(b"{}"))
            return
        self.loads += 1
        self.adapters[asked["lora_name"]] = asked["lora_path"]
        await call.answer(b"Success")


def refusing(status: int, body: bytes) -> object:
    """An engine that lists its base and refuses every adapter."""

    async def script(call: Call) -> None:
        if call.target == "/v1/models":
            await call.answer(b'{"data": [{"id": "base"}]}')
        else:
            await call.answer(body, status)

    return script


async def test_an_adapter_is_loaded_into_every_engine_once(tmp_path: Path) -> None:
    one, two = Admin(), Admin()
    async with engine(one) as first, engine(two) as second:
        loader = HttpLoader([first.url, second.url])
        await loader.load("v1", tmp_path)
        await loader.load("v1", tmp_path)
        assert "v1" in (await loader.loaded() or ())
    assert one.adapters == two.adapters == {"v1": str(tmp_path)}
    assert (one.loads, two.loads) == (1, 1)
    assert "v1" in one.used
    assert "v1" in two.used


async def test_an_adapter_that_is_listed_and_does_not_answer_is_not_loaded(tmp_path: Path) -> None:
    broken = Admin()
    broken.adapters["v1"], broken.broken = str(tmp_path), "its weights are NaN"
    async with engine(broken) as up:
        with pytest.raises(VersionUnavailable, match=r"can't answer with 'v1': its weights"):
            await HttpLoader([up.url]).load("v1", tmp_path)


async def test_an_adapter_that_one_engine_has_forgotten_does_not_count_as_loaded(
    tmp_path: Path,
) -> None:
    one, two = Admin(), Admin()
    async with engine(one) as first, engine(two) as second:
        loader = HttpLoader([first.url, second.url])
        await loader.load("v1", tmp_path)
        two.adapters.clear()
        assert await loader.loaded() == {"base"}


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (404, b'{"detail":"Not Found"}', r"can't load adapters.*--enable-lora"),
        (405, b"", r"can't load adapters"),
        (401, b"{}", r"refused our key \(401\)"),
        (
            400,
            b'{"error": {"message": "LoRA rank 64 is greater"}}',
            r"'v1': LoRA rank 64",
        ),
        (
            404,
            b'{"error": {"message": "No adapter found"}}',
            r"'v1': No adapter found",
        ),
    ],
)
async def test_the_reason_for_refusing_an_adapter_is_said(
    tmp_path: Path, status: int, body: bytes, reason: str
) -> None:
    async with engine(refusing(status, body)) as up:  # type: ignore[arg-type]
        with pytest.raises(VersionUnavailable, match=reason):
            await HttpLoader([up.url]).load("v1", tmp_path)


async def test_an_engine_that_is_away_fails_the_load(tmp_path: Path) -> None:
    async with engine(Admin()) as up, engine(Admin()) as away:
        await away.stop()
        with pytest.raises(EngineUnreachable):
            await HttpLoader([up.url, away.url]).load("v1", tmp_path)


async def test_the_engines_key_is_sent(tmp_path: Path) -> None:
    async with engine(Admin()) as up:
        await HttpLoader([up.url], "secret").load("v1", tmp_path)
    assert {call.headers["authorization"] for call in up.calls} == {"bearer secret"}


async def test_sglang_serves_an_adapter_under_its_own_names_with_our_id(
    tmp_path: Path, valkey_url: str, redis: Any
) -> None:
    sglang = SGLang()
    async with inference_server(tmp_path, valkey_url, sglang, proxied=True) as server:
        await add_adapter(server, "v1")
        for fields in ({"stream": False}, {"stream": True}, {"lora_path": "another"}):
            answer = await server.chat(**{"model": "v1", **fields})
            assert answer.headers["x-learnback-version"] == "v1"
            assert answer.headers["x-learnback-completion-id"] in answer.text
        assert sglang.answered == ["v1"] * 4  # the first to warm it
        await server.chat()
        several = await server.chat(n=2)
        assert "x-learnback-completion-id" not in several.headers, "it has an id for each choice"
        served = await wait_recorded(redis, 5)
    assert sglang.answered[4:] == ["base"] * 2
    assert served[4].id == several.json()["id"]


async def test_sglang_says_why_it_refuses_an_adapter(tmp_path: Path) -> None:
    async with serve_app(SGLang(refuses="LoRA is not enabled").app) as url:
        with pytest.raises(VersionUnavailable, match="'v1': LoRA is not enabled"):
            await HttpLoader([url]).load("v1", tmp_path)


async def test_engines_of_two_kinds_are_not_mistaken_for_each_other(tmp_path: Path) -> None:
    async with engine(Admin()) as vllm, serve_app(SGLang().app) as sglang:
        with pytest.raises(Unavailable, match="must be of one kind"):
            await HttpLoader([vllm.url, sglang]).load("v1", tmp_path)
