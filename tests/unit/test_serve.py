"""The command line and environment of vLLM."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from learnback import cli
from learnback.core import vllm
from learnback.core.errors import BadRequest
from learnback.inference import serve
from learnback.inference.resolver import BASE_DIGEST
from learnback.inference.settings import InferenceSettings

DIGEST = "a" * 64


def test_arguments_name_the_middleware_and_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "on_cpu", lambda: True)
    monkeypatch.setattr(vllm, "fast_bfloat16", lambda: False)
    settings = InferenceSettings(port=9000, engine_args=("--max-model-len", "512"))
    arguments = serve.engine_arguments("models/Tiny", DIGEST, settings)
    text = " ".join(arguments)
    assert "--served-model-name tiny-base-aaaaaaaaaaaa" in text
    assert "--middleware learnback.inference.middleware.LearnbackMiddleware" in text
    assert "--port 9000" in text
    assert "--dtype float32" in text
    assert text.endswith("--max-model-len 512"), "the operator has the last word"


def test_the_operator_chooses_the_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "on_cpu", lambda: True)
    settings = InferenceSettings(engine_args=("--dtype", "bfloat16"))
    assert "float32" not in serve.engine_arguments("m", DIGEST, settings)


@pytest.mark.parametrize(
    ("argument", "instead"),
    [
        ("--host", "LEARNBACK_INFERENCE_HOST"),
        ("--host=0.0.0.0", "LEARNBACK_INFERENCE_HOST"),
        ("--ho", "LEARNBACK_INFERENCE_HOST"),
        ("--port", "LEARNBACK_INFERENCE_PORT"),
        ("--uds", "LEARNBACK_INFERENCE_HOST and"),
        ("--middleware", "a proxy before"),
        ("--served_model_name", "LEARNBACK_INFERENCE_PUBLIC_NAME"),
        ("--api-key", "learnback keys create"),
    ],
)
def test_what_is_ours_can_not_be_given_past_us(argument: str, instead: str) -> None:
    settings = InferenceSettings(engine_args=("--max-model-len", "512", argument, "x"))
    with pytest.raises(vllm.OwnedArgument, match=instead):
        serve.engine_arguments("m", DIGEST, settings)


def environment(given: dict[str, str], **changes: Any) -> dict[str, str]:
    return serve.engine_environment("hub/name", DIGEST, given, **{"cpu": False} | changes)


def test_the_environment_turns_our_plugin_on_and_telemetry_off() -> None:
    found = environment({})
    assert found[BASE_DIGEST] == DIGEST
    assert found["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"
    assert found["VLLM_NO_USAGE_STATS"] == found["DO_NOT_TRACK"] == "1"
    assert "HF_HUB_OFFLINE" not in found, "a hub name may have to be fetched"
    assert "VLLM_PLUGINS" not in found, "unset, all plugins load"


def test_what_is_given_stays_but_for_what_we_stand_on() -> None:
    given = {
        "VLLM_CPU_KVCACHE_SPACE": "7",
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_API_KEY": "secret",
        "VLLM_PLUGINS": "other",
        "PATH": "/bin",
    }
    found = environment(given, cpu=True)
    assert found["VLLM_CPU_KVCACHE_SPACE"] == "7"
    assert found["VLLM_SERVER_DEV_MODE"] == "0"
    assert "VLLM_API_KEY" not in found
    assert found["VLLM_PLUGINS"] == "other,learnback"
    assert found["PATH"] == "/bin"


def test_a_folder_needs_no_hub(tmp_path: Path) -> None:
    found = serve.engine_environment(str(tmp_path), DIGEST, {}, cpu=False)
    assert found["HF_HUB_OFFLINE"] == "1"


def test_without_a_model_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("LEARNBACK_MODEL", raising=False)
    monkeypatch.setenv("LEARNBACK_HOME", str(tmp_path))
    with pytest.raises(serve.NoModel, match="LEARNBACK_MODEL"):
        serve.main()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("--max-model-len 512", ("--max-model-len", "512")),
        ('["--max-model-len", "512"]', ("--max-model-len", "512")),
        ("--chat-template 'a b'", ("--chat-template", "a b")),
    ],
)
def test_settings_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, text: str, expected: tuple[str, ...]
) -> None:
    monkeypatch.setenv("LEARNBACK_INFERENCE_ENGINE_ARGS", text)
    monkeypatch.setenv("LEARNBACK_INFERENCE_ENGINE_URLS", "http://a:1, http://b:2")
    settings = InferenceSettings()
    assert settings.engine_args == expected
    assert settings.engine_urls == ("http://a:1", "http://b:2")


@pytest.mark.parametrize(("given", "seconds"), [("60", 60), ("0.5", 0.5), ("PT2M", 120)])
def test_a_duration_is_seconds_or_iso_8601(
    monkeypatch: pytest.MonkeyPatch, given: str, seconds: float
) -> None:
    monkeypatch.setenv("LEARNBACK_INFERENCE_DRAIN", given)
    assert InferenceSettings().drain.total_seconds() == seconds


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """The apps that would have been served, with uvicorn's options."""
    calls: list[Any] = []
    monkeypatch.setenv("LEARNBACK_HOME", str(tmp_path))
    monkeypatch.setattr(
        "learnback.core.draining.run", lambda app, _, **options: calls.append((app, options))
    )
    return calls


def test_engines_are_named_by_repeating_an_option_or_with_commas(served: list[Any]) -> None:
    arguments = ["inference", "--engine-url", "http://a:1,http://b:2", "--engine-url", "c:3"]
    done = CliRunner().invoke(cli.main, arguments)
    assert done.exit_code == 0, done.output
    ((app, options),) = served
    _, body = options["http"].shown(BadRequest("no HTTP"))
    assert json.loads(body)["error"]["message"] == "no HTTP", "an error as OpenAI's"
    assert [engine.url for engine in app.app.engines] == ["http://a:1", "http://b:2", "c:3"]


def test_an_engine_url_that_is_none_is_told(served: list[Any]) -> None:
    done = CliRunner().invoke(cli.main, ["inference", "--engine-url", "ftp://a"])
    assert (done.exit_code, served) == (1, [])
    assert "'ftp://a' is no engine URL" in done.output
