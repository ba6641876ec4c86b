"""The loop closes: what people say changes the weights that serve, and nobody notices the swap."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from tests.conftest import wait_until
from tests.e2e.conftest import Up

QUESTION = {"role": "user", "content": "what is the answer to this question"}
HYPERPARAMETERS = {"learning_rate": 5e-3, "max_steps": 12, "sft_weight": 0.2, "lora_rank": 8}


def ask(http: httpx.Client, up: Up, model: str, **more: Any) -> httpx.Response:
    body = {"model": model, "messages": [QUESTION], "max_tokens": 16, "temperature": 0, **more}
    answer = http.post(f"{up.urls['inference']}/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer


def text_of(answer: httpx.Response) -> str:
    return str(answer.json()["choices"][0]["message"]["content"])


def ask_until_said(http: httpx.Client, up: Up, prompt: dict[str, str]) -> str:
    """The id of an answer with words: a random model may say nothing, which can't be compared."""
    for _ in range(10):
        answer = ask(http, up, "learnback", messages=[prompt], temperature=1.0)
        if text_of(answer).strip():
            return str(answer.json()["id"])
    pytest.fail("ten answers without a word")


def give_preferences(http: httpx.Client, up: Up, count: int) -> list[str]:
    """Ask `count` prompts, say of each answer that another text is better; the feedback ids."""
    given = []
    for i in range(count):
        prompt = {"role": "user", "content": f"question number {i} please"}
        completion = ask_until_said(http, up, prompt)
        answer = http.post(
            f"{up.urls['feedback']}/v1/feedback",
            json={
                "kind": "preference",
                "first": {"completion_id": completion},
                "second": {"text": f"yes thanks please {i}"},
                "preferred": "second",
                "rater": {"id": f"rater-{i % 5}"},
            },
            headers={"Idempotency-Key": f"loop-{i}"},
        )
        assert answer.status_code == 202, answer.text
        given.append(answer.json()["id"])
    return given


@pytest.fixture(scope="module")
def trained(up: Up) -> dict[str, Any]:
    """A version trained from feedback over public HTTP, with what was seen before it."""
    with httpx.Client(timeout=120, trust_env=False) as http:
        base = up.cli("status")["stable"]
        before = text_of(ask(http, up, base))
        feedback = give_preferences(http, up, 40)
        asyncio.run(
            wait_until(
                lambda: up.cli("status")["feedback"].get("accepted", 0) >= 40,
                "all signals joined to their completions",
                60,
            )
        )
        run = http.post(
            f"{up.urls['retraining']}/admin/v1/runs",
            json={"reason": "the test asks", "seed": 1, "hyperparameters": HYPERPARAMETERS},
        )
        assert run.status_code == 202, run.text
        version = asyncio.run(
            wait_until(_finished(http, up, run.json()["id"]), "the run ends", 240)
        )
        asyncio.run(
            wait_until(
                lambda: _state(up, version) != "registered", "the gate says what it thinks", 240
            )
        )
    return {"base": base, "before": before, "feedback": feedback, "version": version}


def _finished(http: httpx.Client, up: Up, run_id: str) -> Callable[[], Any]:
    def look() -> Any:
        run = http.get(f"{up.urls['retraining']}/admin/v1/runs/{run_id}").json()
        assert run["state"] not in {"failed", "cancelled"}, run
        return run["version"] if run["state"] == "done" else None

    return look


def _state(up: Up, version: str) -> str:
    return str(next(v["state"] for v in up.cli("status")["versions"] if v["name"] == version))


def _serve(http: httpx.Client, up: Up, version: str) -> None:
    """Let `version` answer everybody, and wait until it does."""
    if up.cli("status")["stable"] != version:
        up.cli("promote", version, "--reason", "the test says so", "--force")
    asyncio.run(
        wait_until(
            lambda: (
                ask(http, up, "learnback", max_tokens=1).headers["x-learnback-version"] == version
            ),
            f"{version} answers",
            60,
        )
    )


def test_feedback_changes_the_weights_that_serve(
    up: Up, trained: dict[str, Any], http: httpx.Client
) -> None:
    _serve(http, up, trained["version"])
    after = text_of(ask(http, up, "learnback"))
    assert after != trained["before"]
    assert text_of(ask(http, up, trained["version"])) == after


def test_the_old_version_still_gives_the_old_answer(
    up: Up, trained: dict[str, Any], http: httpx.Client
) -> None:
    _serve(http, up, trained["version"])
    pinned = ask(http, up, trained["base"])
    assert text_of(pinned) == trained["before"]
    assert pinned.headers["x-learnback-track"] == "pinned"


def test_every_signal_says_what_became_of_it(
    up: Up, trained: dict[str, Any], http: httpx.Client
) -> None:
    found = [
        http.get(f"{up.urls['feedback']}/v1/feedback/{feedback_id}").json()
        for feedback_id in trained["feedback"]
    ]
    assert {f["status"] for f in found} == {"trained", "held_out"}
    assert {f["trained_version"] for f in found if f["status"] == "trained"} == {trained["version"]}


def test_every_completion_is_recorded_and_scored(
    up: Up, trained: dict[str, Any], http: httpx.Client
) -> None:
    completion = ask(http, up, "learnback").json()["id"]

    def recorded() -> bool:
        url = f"{up.urls['feedback']}/v1/completions/{completion}"
        return http.get(url).status_code == 200

    asyncio.run(wait_until(recorded, "the completion is in the ledger"))
    asyncio.run(
        wait_until(
            lambda: all(q["lag"] == 0 and q["pending"] == 0 for q in up.cli("streams", "lag")),
            "all queues are empty",
        )
    )


SWAPS = 10
STREAMS = 6


async def test_no_stream_is_torn_while_versions_swap(up: Up, trained: dict[str, Any]) -> None:
    """Streams run all the time while the stable version changes ten times."""
    stop = asyncio.Event()
    seen: list[tuple[str, str, str]] = []
    async with httpx.AsyncClient(timeout=120, trust_env=False) as http:
        load = [asyncio.create_task(_stream(http, up, stop, seen)) for _ in range(STREAMS)]
        versions = [trained["base"], trained["version"]]
        current = (await asyncio.to_thread(up.cli, "status"))["stable"]
        for _ in range(SWAPS):
            current = versions[1 - versions.index(current)]
            await asyncio.to_thread(
                up.cli, "promote", current, "--reason", "swap under load", "--force"
            )
            reached = len(seen)
            await wait_until(
                lambda version=current, since=reached: any(
                    header == version for header, _, _ in seen[since:]
                ),
                f"streams answered by {current}",
                60,
            )
        stop.set()
        await asyncio.gather(*load)
    texts = {version: {text for v, _, text in seen if v == version} for version in versions}
    assert all(len(found) == 1 for found in texts.values()), texts  # greedy: one text a version
    assert texts[versions[0]] != texts[versions[1]]
    assert all(header == model for header, model, _ in seen)


async def _stream(
    http: httpx.AsyncClient, up: Up, stop: asyncio.Event, seen: list[tuple[str, str, str]]
) -> None:
    """Stream answers until told to stop; fails on the first that is torn."""
    body = {
        "model": "learnback",
        "messages": [QUESTION],
        "max_tokens": 24,
        "temperature": 0,
        "stream": True,
        "ignore_eos": True,
    }
    while not stop.is_set():
        url = f"{up.urls['inference']}/v1/chat/completions"
        async with http.stream("POST", url, json=body) as answer:
            assert answer.status_code == 200
            lines = [line async for line in answer.aiter_lines() if line]
        assert lines[-1] == "data: [DONE]", lines[-3:]
        chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
        assert chunks[-1]["choices"][0]["finish_reason"] == "length"
        text = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks)
        seen.append((answer.headers["x-learnback-version"], chunks[0]["model"], text))
