"""How the pooling engine is started, and when it is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from learnback.core import vllm
from learnback.models import reward_base
from learnback.models.pooling_reward import engine_name
from learnback.reward import engine


def test_the_engine_is_a_pooling_runner_for_adapters_under_a_name_with_the_digest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vllm, "on_cpu", lambda: True)
    monkeypatch.setattr(vllm, "fast_bfloat16", lambda: False)
    name = engine_name("models/Tiny", "ab" * 32)
    found = engine.arguments_of(Path("base"), name, "0.0.0.0", 8010, 8, ["--max-model-len", "512"])
    text = " ".join(found)
    assert "--served-model-name tiny-reward-base-abababababab --runner pooling" in text
    assert "--enable-lora --max-lora-rank 8" in text
    assert "--dtype float32" in text
    assert text.endswith("--max-model-len 512"), "the operator has the last word"


def test_without_a_base_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LEARNBACK_MODEL", raising=False)
    monkeypatch.setenv("LEARNBACK_HOME", str(tmp_path))
    with pytest.raises(engine.NoBase, match="--model"):
        engine.run(None, "127.0.0.1", 1, 8, ())


def test_beyond_loopback_it_needs_a_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LEARNBACK_HOME", str(tmp_path))
    for host in ("0.0.0.0", "10.0.0.7"):
        with pytest.raises(engine.NoKey, match="LEARNBACK_REWARD_ENGINE_KEY"):
            engine.run("models/Tiny", host, 1, 8, ())


@pytest.mark.parametrize("argument", ["--host=0.0.0.0", "--uds", "--middleware", "--api_key"])
def test_what_is_ours_can_not_be_given_past_us(argument: str) -> None:
    with pytest.raises(vllm.OwnedArgument, match="can't be given here; use"):
        engine.arguments_of(Path("base"), "name", "127.0.0.1", 1, 8, [argument])


def test_a_sharded_base_keeps_its_shards_and_gains_a_head(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    config = {"architectures": ["QwenForCausalLM"], "text_config": {"hidden_size": 8}}
    (base / "config.json").write_text(json.dumps(config))
    shards = {"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}
    (base / "model.safetensors.index.json").write_text(json.dumps(shards))
    (base / "1.safetensors").write_bytes(b"weights")
    made = reward_base.prepare(base, tmp_path / "made")
    index = json.loads((made / "model.safetensors.index.json").read_text())["weight_map"]
    assert index == {
        "a": "1.safetensors",
        "b": "2.safetensors",
        "score.weight": "score.safetensors",
    }
    assert json.loads((made / "config.json").read_text())["architectures"] == [
        "QwenForSequenceClassification"
    ]
    assert (made / "1.safetensors").read_bytes() == b"weights"
    assert reward_base.prepare(base, made) == made


@pytest.mark.parametrize("architectures", [[], ["BertForMaskedLM"]])
def test_what_is_no_language_model_is_refused(tmp_path: Path, architectures: list[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": architectures}))
    (tmp_path / "model.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    with pytest.raises(ValueError, match="causal language model"):
        reward_base.prepare(tmp_path, tmp_path / "made")
