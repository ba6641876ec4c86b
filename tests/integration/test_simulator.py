"""Simulated people against small servers: real HTTP, retries, and what they report."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn
from click.testing import CliRunner
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from tests.conftest import wait_until

from learnback_simulator.cli import main
from learnback_simulator.http import Server, ServerRefused
from learnback_simulator.measure import measure
from learnback_simulator.people import crowd
from learnback_simulator.session import chat_and_compare


def longer(prompt: str, answer: str) -> float:
    return float(len(answer))


class Servers:
    """Both public APIs in one small app on a real port."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.said: dict[str, dict[str, Any]] = {}
        self.repeats = 0
        self.failures = 0
        self.refuse: int | None = None
        app = FastAPI()
        app.post("/v1/chat/completions")(self.answer)
        app.post("/v1/feedback")(self.feedback)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]})
        self.thread.start()

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(10)

    async def answer(self, request: Request) -> JSONResponse:
        body = await request.json()
        if self.failures:
            self.failures -= 1
            return JSONResponse({"detail": "busy"}, 503)
        if self.refuse:
            return JSONResponse({"detail": "no such model"}, self.refuse)
        self.asked.append(body)
        prompt = body["messages"][0]["content"]
        base = "new " * 5 if body["model"] == "new" else "old"
        texts = ["same"] * 9 if prompt == "same?" else [f"{base}{'x' * i}" for i in range(9)]
        choices = [{"index": i, "message": {"content": texts[i]}} for i in range(body.get("n", 1))]
        number = len(self.asked)
        found = {"id": f"chatcmpl-{number}", "model": body["model"], "choices": choices}
        found["usage"] = {"completion_tokens": 10}
        return JSONResponse(found, headers={"x-learnback-version": "v1"})

    async def feedback(self, request: Request) -> JSONResponse:
        key = request.headers["idempotency-key"]
        body = await request.json()
        self.repeats += key in self.said
        self.said[key] = body
        return JSONResponse({"id": f"fb_{len(self.said)}", "status": "accepted"}, 202)


@pytest.fixture
async def servers() -> AsyncIterator[Servers]:
    servers = Servers()
    await wait_until(lambda: servers.server.started, "the server started")
    yield servers
    servers.stop()


@pytest.fixture
async def server(servers: Servers) -> AsyncIterator[Server]:
    server = Server(servers.url, servers.url, "lb_key")
    yield server
    await server.close()


async def test_people_ask_compare_and_say(servers: Servers, server: Server) -> None:
    people = crowd(3, longer, error_rate=0)
    seen: list[int] = []
    counts = await chat_and_compare(
        server,
        people,
        [f"q{i}?" for i in range(10)],
        answers_each=4,
        progress=lambda c: seen.append(c.asked),
    )
    assert (counts.asked, counts.answers, counts.preferences) == (10, 40, 20)
    assert counts.tokens == 80
    assert seen == sorted(seen)
    assert seen[-1] == 10
    assert {body["rater"]["id"] for body in servers.said.values()} == {p.id for p in people}
    for body in servers.said.values():
        first, second = body["first"], body["second"]
        assert first["completion_id"] == second["completion_id"]
        better = "first" if first["choice"] > second["choice"] else "second"
        assert (body["kind"], body["preferred"]) == ("preference", better)


async def test_the_longer_answer_is_not_always_first(servers: Servers, server: Server) -> None:
    await chat_and_compare(server, crowd(1, longer, error_rate=0), [f"q{i}?" for i in range(30)])
    said = [body["preferred"] for body in servers.said.values()]
    assert 5 < said.count("first") < 25


async def test_identical_answers_are_not_compared(servers: Servers, server: Server) -> None:
    counts = await chat_and_compare(server, crowd(1, longer), ["same?"])
    assert (counts.asked, counts.preferences, counts.ties, servers.said) == (1, 0, 0, {})


async def test_lazy_people_are_counted(servers: Servers, server: Server) -> None:
    counts = await chat_and_compare(server, crowd(1, longer, laziness=1.0), ["a?", "b?"])
    assert (counts.silent, servers.said) == (2, {})


async def test_a_busy_server_is_asked_again(servers: Servers, server: Server) -> None:
    servers.failures = 2
    counts = await chat_and_compare(server, crowd(1, longer), ["a?"])
    assert (counts.asked, len(servers.asked)) == (1, 1)


async def test_saying_it_twice_counts_once(servers: Servers, server: Server) -> None:
    for _ in range(2):
        first, second = (await server.ask("m", "a?", n=2, max_tokens=4, user="u"))[:2]
        servers.asked.clear()
        await server.prefer(first, second, "first", rater="u")
    assert (len(servers.said), servers.repeats) == (1, 1)


async def test_a_refusal_is_told(servers: Servers, server: Server) -> None:
    servers.refuse = 404
    with pytest.raises(ServerRefused, match=r"404: .*no such model"):
        await server.ask("m", "a?", n=1, max_tokens=4, user="u")


async def test_measuring_pins_versions_and_trains_nothing(servers: Servers, server: Server) -> None:
    steps: list[tuple[int, int]] = []
    found = await measure(
        server,
        longer,
        [f"q{i}?" for i in range(12)],
        old="old",
        new="new",
        progress=lambda done, total: steps.append((done, total)),
    )
    assert (found.rate, found.low, found.high) == (1.0, 1.0, 1.0)
    assert steps[-1] == (24, 24)
    assert {body["model"] for body in servers.asked} == {"old", "new"}
    assert all(body["store"] is False for body in servers.asked)
    by_prompt: dict[str, set[int]] = {}
    for body in servers.asked:
        by_prompt.setdefault(body["messages"][0]["content"], set()).add(body["seed"])
    assert all(len(seeds) == 1 for seeds in by_prompt.values())


def run_cli(servers: Servers, *more: str) -> Any:
    urls = ["--inference", servers.url, "--feedback", servers.url]
    return CliRunner().invoke(main, [*urls, "--prompts", "5", *more])


async def test_the_command_reports_as_json(servers: Servers) -> None:
    import asyncio

    done = await asyncio.to_thread(run_cli, servers, "--json", "--error-rate", "0")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["asked"] == 5


@pytest.mark.parametrize(
    ("options", "refuse", "said"),
    [
        (["--preference", "nonsense"], None, "no preference 'nonsense'"),
        ([], 401, "401"),
    ],
)
async def test_the_command_explains_what_failed(
    servers: Servers, options: list[str], refuse: int | None, said: str
) -> None:
    import asyncio

    servers.refuse = refuse
    done = await asyncio.to_thread(run_cli, servers, *options)
    assert done.exit_code == 1
    assert said in done.output
    assert isinstance(done.exception, SystemExit)
