"""Adapters of engines behind the proxy, over their own admin route."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.scripted_engine import Call, engine

from learnback.inference.errors import VersionUnavailable
from learnback.inference.loaders import HttpLoader
from learnback.inference.upstream_connection import EngineUnreachable


class Admin:
    """An engine that keeps adapters by name, as vLLM does."""

    def __init__(self) -> None:
        self.adapters: dict[str, str] = {}
        self.loads = 0

    async def __call__(self, call: Call) -> None:
        if call.target == "/v1/models":
            cards = [{"id": name} for name in ("base", *self.adapters)]
            await call.answer(json.dumps({"data": cards}).encode())
            return
        asked = json.loads(call.body)
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
