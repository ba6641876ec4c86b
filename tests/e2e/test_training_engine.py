"""What the trainer and the engine think of the same answer."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
import torch
from tests.e2e.engine import Engine, make_adapter

from learnback.retraining.plan import RunPlan
from learnback.retraining.publishing import publish
from learnback.retraining.trainers.encoding import Answer, Encoded, Encoder, padded
from learnback.retraining.trainers.likelihood import completion_log_probabilities
from learnback.retraining.trainers.loading import load_model, load_tokenizer, reference

pytestmark = pytest.mark.engine


def test_trainer_and_engine_give_an_answer_the_same_log_probabilities(
    engine: Engine, http: httpx.Client, tmp_path: Path
) -> None:
    made = make_adapter(tmp_path / "made", seed=7, scale=1)
    plan = RunPlan(
        run_id="run", base_model=str(engine.model), parent_adapter=made, dataset=tmp_path
    )
    tokenizer = load_tokenizer(plan.base_model)
    model = load_model(plan).float().eval()
    prompt = [{"role": "user", "content": "how are you today"}]
    encoded = Encoder.of(plan, tokenizer).encode(prompt, Answer("good thanks, and yes", True))
    inputs = padded([encoded], tokenizer.pad_token_id)
    with torch.no_grad():
        ours = completion_log_probabilities(model, inputs)[0][0]
        with reference(model) as base:
            untrained = completion_log_probabilities(base, inputs)[0][0]
    adapter = tmp_path / "adapter"
    publish(model, tokenizer, adapter, plan.base_model)

    theirs = engine_log_probabilities(engine, http, engine.register(adapter), encoded)

    assert (ours - untrained).abs().max() > 0.1  # the adapter says something
    assert theirs == pytest.approx(ours.tolist(), abs=1e-3)


def engine_log_probabilities(
    engine: Engine, http: httpx.Client, version: str, encoded: Encoded
) -> list[float]:
    """Of the answer's tokens, as vLLM computes them for a prompt that holds the answer already."""
    tokens = encoded.prompt_ids + encoded.answer_ids
    asked = {"model": version, "prompt": tokens, "max_tokens": 1, "prompt_logprobs": 0}
    said = http.post(f"{engine.url}/v1/completions", json=asked)
    assert said.status_code == 200, said.text
    found = said.json()["choices"][0]["prompt_logprobs"]
    start = len(encoded.prompt_ids)
    return [
        float(at[str(token)]["logprob"])
        for token, at in zip(tokens[start:], found[start:], strict=True)
    ]
