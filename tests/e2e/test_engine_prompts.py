"""Prompt versions on a real vLLM: examples reach the model, and never more than it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.e2e.engine import Engine
from tests.factories import an_example

from learnback.models import example_bank

pytestmark = pytest.mark.engine

EXAMPLES = [an_example(f"how do {animal} sing", answer="la " * 20) for animal in ("cats", "dogs")]


@pytest.fixture(scope="module")
def few_shot(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> str:
    bank: Path = tmp_path_factory.mktemp("made") / "bank"
    example_bank.save(example_bank.bank_of(EXAMPLES), bank)
    return engine.register_prompts(bank, max_examples=2)


def ask(engine: Engine, model: str, text: str, **fields: Any) -> Any:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": 8,
        "temperature": 0,
        **fields,
    }
    answer = httpx.post(
        f"{engine.url}/v1/chat/completions", json=body, timeout=120, trust_env=False
    )
    assert answer.status_code == 200, answer.text
    return answer


def tokens(answer: Any) -> int:
    return int(answer.json()["usage"]["prompt_tokens"])


def test_examples_stand_in_the_prompt_that_the_model_reads(engine: Engine, few_shot: str) -> None:
    plain = ask(engine, engine.base, "how do dogs sing")
    shown = ask(engine, few_shot, "how do dogs sing")
    assert tokens(shown) > tokens(plain) + 40
    record = engine.recorded(shown.json()["id"])
    assert set(record.examples) == {example.id for example in EXAMPLES}
    assert record.prompt == ({"role": "user", "content": "how do dogs sing"},)


def test_what_fits_without_examples_fits_with_them(engine: Engine, few_shot: str) -> None:
    """The model holds 512 tokens, which vLLM says itself."""
    for words in (1, 20, 40, 60, 75):
        text = "sing " * words
        plain = ask(engine, engine.base, text, max_tokens=100)
        shown = ask(engine, few_shot, text, max_tokens=100)
        assert tokens(plain) <= tokens(shown) <= 412
    record = engine.recorded(shown.json()["id"])
    assert (record.examples, record.strategy_skipped) == ((), "no_room")
