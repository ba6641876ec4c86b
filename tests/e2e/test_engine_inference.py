"""The middleware within a real vLLM: ids, versions, what is hidden, and what is recorded."""

from __future__ import annotations

import json
import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.chart.expressions import alert_expressions, dashboard_expressions, selectors
from tests.e2e.engine import Engine, make_adapter
from tests.integration.test_inference import VLLM_ROUTES

from learnback.contracts.models import CompletionEnd, Track

pytestmark = pytest.mark.engine

MESSAGES = [{"role": "user", "content": "hello"}]
SETTLED = {"messages": MESSAGES, "max_tokens": 12, "temperature": 0, "ignore_eos": True}


@pytest.fixture
def http(engine: Engine) -> Any:
    with httpx.Client(base_url=engine.url, timeout=120, trust_env=False) as client:
        yield client


def chat(http: httpx.Client, **fields: Any) -> httpx.Response:
    return http.post("/v1/chat/completions", json={"model": "learnback", **SETTLED, **fields})


def text_of(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def test_ids_are_ours_and_every_endpoint_is_recorded(engine: Engine, http: httpx.Client) -> None:
    texts = {"model": "learnback", "prompt": "hello", "max_tokens": 5}
    respond = {"model": "learnback", "input": "hello", "max_output_tokens": 5}
    for path, body, prefix in (
        ("chat/completions", {"model": "learnback", **SETTLED}, "chatcmpl-"),
        ("completions", texts, "cmpl-"),
        ("responses", respond, "resp_"),
    ):
        for stream in (False, True):
            answer = http.post(f"/v1/{path}", json={**body, "stream": stream})
            assert answer.status_code == 200, answer.text
            completion_id = answer.headers["x-learnback-completion-id"]
            assert re.fullmatch(prefix + r"[0-9a-f]{12}7[0-9a-f]{19}", completion_id)
            assert f'"id":"{completion_id}"' in answer.text
            served = engine.recorded(completion_id)
            assert served.version == engine.base
            assert served.streamed is stream
            assert served.end is CompletionEnd.COMPLETE
            assert served.prompt == ({"role": "user", "content": "hello"},)
            assert served.choices[0].finish_reason == "length"
            if not stream and path == "chat/completions":
                assert served.choices[0].text == text_of(answer)
                assert served.usage.completion_tokens == 12


def test_a_stream_says_the_same_as_a_whole_answer(engine: Engine, http: httpx.Client) -> None:
    whole = text_of(chat(http))
    streamed = chat(http, stream=True)
    served = engine.recorded(streamed.headers["x-learnback-completion-id"])
    assert served.choices[0].text == whole
    assert streamed.text.endswith("data: [DONE]\n\n")


def test_nothing_but_our_api_is_reachable(http: httpx.Client) -> None:
    listed = (*VLLM_ROUTES, "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/openapi.yaml")
    for path in listed:
        for method in ("GET", "POST", "DELETE"):
            assert http.request(method, path, json={}).status_code == 404, f"{method} {path}"
    document = http.get("/openapi.json").json()
    assert "/v1/load_lora_adapter" not in document["paths"]
    page = http.get("/metrics").text
    assert "vllm:request_success_total" in page
    assert "learnback_inference_requests_total" in page


def test_vllm_exports_what_alerts_and_dashboards_ask_for(http: httpx.Client) -> None:
    chat(http)
    page = http.get("/metrics").text
    families = {family.name: family for family in text_string_to_metric_families(page)}
    expressions = [*alert_expressions().values(), *dashboard_expressions().values()]
    asked = {s.metric for text in expressions for s in selectors(text)}
    for name in asked:
        if name.startswith(("vllm:", "learnback_inference_")):
            family = re.sub("_(total|bucket|sum|count)$", "", name)
            assert name in families or family in families, name
    engines = [
        f for name, f in families.items() if name in {a.removesuffix("_total") for a in asked}
    ]
    for sample in (s for f in engines if f.name.startswith("vllm:") for s in f.samples):
        assert {"model_name", "engine"} <= set(sample.labels), sample.name


def test_a_seed_repeats_an_answer_in_a_burst_whose_prompts_are_read_in_parts(
    http: httpx.Client,
) -> None:
    long = [{"role": "user", "content": "hello " * 60}]  # together more than one step reads

    def ask(seed: int) -> str:
        sent = {"messages": long, "temperature": 1.0, "seed": seed}
        return text_of(chat(http, **sent))

    alone = ask(0)
    with ThreadPoolExecutor(48) as pool:
        texts = list(pool.map(ask, [*range(24), *range(24)]))
    assert texts[:24] == texts[24:]
    assert texts[0] == alone
    assert len(set(texts)) > 12


def test_a_pinned_adapter_answers_and_the_base_stays_as_it_was(
    engine: Engine, http: httpx.Client, tmp_path: Path
) -> None:
    before = text_of(chat(http))
    name = engine.register(make_adapter(tmp_path / "adapter-1", seed=1, scale=3))
    pinned = chat(http, model=name)
    assert text_of(pinned) != before
    assert pinned.headers["x-learnback-version"] == name
    assert pinned.json()["model"] == name
    assert engine.recorded(pinned.json()["id"]).track is Track.PINNED
    assert text_of(chat(http, model=engine.base)) == before
    assert text_of(chat(http, model=name)) == text_of(pinned)


def test_an_adapter_with_a_wrong_digest_is_never_served(
    engine: Engine, http: httpx.Client, tmp_path: Path
) -> None:
    name = engine.register(make_adapter(tmp_path / "adapter-2", seed=2))
    weights = engine.home / "artifacts" / "adapter-2" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8] + b"tampered")
    answer = chat(http, model=name)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "version_unavailable"
    assert "digest" in answer.json()["error"]["message"]
    assert text_of(chat(http)), "the engine lives on"


def test_an_adapter_that_the_engine_cannot_load_is_never_served(
    engine: Engine, http: httpx.Client, tmp_path: Path
) -> None:
    folder = make_adapter(tmp_path / "adapter-3", seed=3)
    (folder / "adapter_model.safetensors").write_bytes(b"no weights")
    answer = chat(http, model=engine.register(folder))
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "version_unavailable"
    assert text_of(chat(http)), "the engine lives on"


def no_white_space(model: Path) -> dict[str, float]:
    """A bias that lets a random model come to the end of its JSON, which may hold any amount."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    return {str(i): -100.0 for i in range(len(tokenizer)) if tokenizer.decode([i]).isspace()}


def test_structured_output_and_tools_pass(engine: Engine, http: httpx.Client) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"enum": ["b", "c"]}},
        "required": ["a"],
        "additionalProperties": False,
    }
    shape = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    function = {"name": "say", "strict": True, "parameters": schema}  # else any JSON will do
    tool = {"type": "function", "function": function}
    ends = {"ignore_eos": False, "max_tokens": 300, "logit_bias": no_white_space(engine.model)}
    answer = chat(http, response_format=shape, **ends)
    assert json.loads(text_of(answer))["a"] in {"b", "c"}
    served = engine.recorded(answer.json()["id"])
    assert (served.choices[0].text, served.choices[0].finish_reason) == (text_of(answer), "stop")
    assert served.parameters["response_format"] == shape
    for stream in (False, True):
        called = chat(http, tools=[tool], tool_choice="required", stream=stream, **ends)
        assert called.status_code == 200, called.text
        served = engine.recorded(called.headers["x-learnback-completion-id"])
        assert served.parameters["tools"] == [tool]
        assert served.choices[0].finish_reason == "tool_calls"
        (call,) = served.choices[0].tool_calls
        assert call.name == "say"
        assert json.loads(call.arguments)["a"] in {"b", "c"}
        assert call.id is not None
        assert call.id in called.text, "it is the call that the client got"


def test_the_engines_own_refusals_pass(engine: Engine, http: httpx.Client) -> None:
    answer = chat(http, temperature=-1)
    assert answer.status_code == 400
    assert "temperature" in answer.json()["error"]["message"]
    served = engine.recorded(answer.headers["x-learnback-completion-id"])
    assert served.end is CompletionEnd.REFUSED
    assert served.choices == ()


def test_what_is_no_http_is_told_in_openais_shape(engine: Engine) -> None:
    address = ("127.0.0.1", int(engine.url.rpartition(":")[2]))
    with socket.create_connection(address, 10) as connection:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: lots\r\n\r\n")
        said = connection.makefile("rb").read()
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert "not HTTP" in json.loads(body)["error"]["message"]


def test_a_client_that_hangs_up_stops_the_engine_and_is_recorded(
    engine: Engine, http: httpx.Client
) -> None:
    long = {"max_tokens": 480, "n": 16, "temperature": 1}  # seconds of work, on any machine
    body = {"model": "learnback", **SETTLED, **long, "stream": True}
    with http.stream("POST", "/v1/chat/completions", json=body) as answer:
        lines = answer.iter_lines()
        for _ in range(12):
            next(lines)
    served = engine.recorded(answer.headers["x-learnback-completion-id"])
    assert served.end is CompletionEnd.CLIENT_DISCONNECTED
    assert served.choices[0].finish_reason is None


def test_many_at_once_are_all_recorded(engine: Engine, http: httpx.Client) -> None:
    answers: list[httpx.Response] = []

    def ask(number: int) -> None:
        answers.append(chat(http, stream=number % 2 == 0, user=f"user-{number}"))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for answer in answers:
        assert answer.status_code == 200
        engine.recorded(answer.headers["x-learnback-completion-id"])
