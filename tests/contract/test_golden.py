"""Every message that was ever written still parses, and newer writers do not break older readers.

A golden file is one message as it was once written. Files are added, never changed: one that has
to change breaks what lies on somebody's stream.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from learnback.contracts.messages import CompletionServed, Message
from learnback.contracts.streams import STREAMS
from learnback.core.bus import decode, encode

GOLDEN = Path(__file__).parent / "golden"
FILES = sorted(GOLDEN.glob("*.json"))
BY_TYPE = {stream.message.type: stream for stream in STREAMS}


def parse(path: Path) -> Message:
    return BY_TYPE[type_of(path)].message.model_validate_json(path.read_bytes())


def type_of(path: Path) -> str:
    return path.name.split(".", 1)[0]


def test_every_message_type_has_a_golden_file() -> None:
    assert {type_of(path) for path in FILES} == set(BY_TYPE)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_a_golden_message_still_says_the_same(path: Path) -> None:
    golden = json.loads(path.read_bytes())
    written = json.loads(parse(path).model_dump_json())
    assert without_additions(written, golden) == golden


def without_additions(written: Any, golden: Any) -> Any:
    """What was written, less the fields with defaults that an older writer did not know."""
    if isinstance(golden, dict):
        return {name: without_additions(written[name], golden[name]) for name in golden}
    if isinstance(golden, list):
        return [without_additions(w, g) for w, g in zip(written, golden, strict=True)]
    return written


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_a_reader_ignores_fields_of_a_newer_writer(path: Path) -> None:
    golden = json.loads(path.read_bytes())
    newer = json.dumps(golden | {"added_later": {"deep": [1, 2]}})
    assert BY_TYPE[type_of(path)].message.model_validate_json(newer) == parse(path)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_a_message_survives_the_stream(path: Path) -> None:
    message, stream = parse(path), BY_TYPE[type_of(path)]
    fields = {name.encode(): value.encode() for name, value in encode(message).items()}
    assert decode(stream, b"1-0", fields).message == message


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_keys_name_the_fact(path: Path) -> None:
    message = parse(path)
    assert message.key
    assert message.key == message.model_copy().key


def test_a_message_is_frozen() -> None:
    message = parse(GOLDEN / "ModelTrained.1.json")
    with pytest.raises(ValidationError):
        message.version = "another"  # type: ignore[attr-defined]


def test_an_unstored_completion_carries_no_content() -> None:
    """Fields with defaults may be left out by an older writer."""
    message = parse(GOLDEN / "CompletionServed.2.json")
    assert isinstance(message, CompletionServed)
    assert (message.stored, message.prompt, message.choices) == (False, (), ())
