"""What vLLM 0.32 really sent, and the record that it becomes.

A file is one exchange: `request`, `status`, `content_type`, `answer` as text, and the `record`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from learnback.contracts.messages import CompletionServed
from learnback.contracts.models import CompletionEnd, Endpoint, Track
from learnback.inference.completion import completion_of
from learnback.inference.served import Served

FOLDER = Path(__file__).parent / "engine_answers"
FILES = sorted(FOLDER.glob("*.json"))
COMPARED = {"id", "end", "stored", "prompt", "choices", "parameters", "usage"}


def record_of(golden: dict[str, Any], endpoint: Endpoint) -> CompletionServed:
    refused = golden["status"] >= 400
    return completion_of(
        Served(
            id=golden["id"],
            tenant="default",
            created_at=0.0,
            endpoint=endpoint,
            version="base",
            track=Track.STABLE,
            probability=1.0,
            prompt_strategy=None,
            request=json.dumps(golden["request"]).encode(),
            answer=[golden["answer"].encode()],
            event_stream=golden["content_type"].startswith("text/event-stream"),
            streamed=golden["request"].get("stream", False),
            stored=True,
            status=golden["status"],
            end=CompletionEnd.REFUSED if refused else CompletionEnd.COMPLETE,
            subject=None,
            session=None,
            metadata={},
            first_byte_s=0.1,
            duration_s=0.2,
        )
    )


def test_there_is_one_of_each_endpoint_whole_and_streamed() -> None:
    names = {path.stem for path in FILES}
    for endpoint in ("chat.completions", "completions", "responses"):
        assert {f"{endpoint}-whole", f"{endpoint}-stream"} <= names


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
async def test_what_vllm_sent_is_recorded_so(path: Path) -> None:
    golden = json.loads(path.read_text())
    endpoint: Any = path.stem.partition("-")[0]
    written = record_of(golden, endpoint)
    assert json.loads(written.model_dump_json(include=COMPARED)) == golden["record"]
