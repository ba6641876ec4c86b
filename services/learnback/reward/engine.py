"""`learnback reward-engine`: vLLM's pooling runner on the base, for neural reward models.

This process turns into vLLM's (exec). It knows no reward model at its start: the reward process
lets it load each as an adapter, by the path of its files, which both must see.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from learnback.core import vllm
from learnback.core.errors import LearnbackError
from learnback.core.settings import CommonSettings, keys_required
from learnback.models import reward_base
from learnback.models.pooling_reward import engine_name
from learnback.registry.artifacts import digest_model

MAX_MODELS = 4
"""Reward models in one batch: the one in use, its successor, and two that rescoring asks for."""


GUARD = "learnback.reward.engine_guard.KeyGuard"
OWNED = {
    "--host": "--host of `learnback reward-engine`",
    "--port": "--port of `learnback reward-engine`",
    "--uds": "--host and --port of `learnback reward-engine`",
    "--model": "--model of `learnback reward-engine`",
    "--middleware": "a proxy before this server",
    "--api-key": "LEARNBACK_REWARD_ENGINE_KEY",
    "--max-lora-rank": "--max-rank of `learnback reward-engine`",
}
"""What may not be given to vLLM past our options, and what to use instead."""


class NoKey(LearnbackError):
    """Everybody could reach the engine."""

    code, title = "no_key", "No key"


class NoBase(LearnbackError):
    """There is no base model to serve."""

    code, title = "no_base", "No base"


def run(model: str | None, host: str, port: int, max_rank: int, more: Sequence[str]) -> None:
    """Serve until SIGTERM. Raises NoBase, NoEngine, NoKey, OwnedArgument."""
    common = CommonSettings()
    key = common.reward_engine_key.get_secret_value()
    if not key and keys_required(common, host):
        raise NoKey(
            f"On {host} everybody could load adapters: set LEARNBACK_REWARD_ENGINE_KEY, "
            "here and for `learnback reward`."
        )
    guards = ["--middleware", GUARD] if key else []
    given = model or common.model
    if not given:
        raise NoBase("Say which base the reward models stand on: --model <folder or hub name>.")
    digest = digest_model(given)
    folder = _with_head(given, common.home / "cache" / "reward-base" / digest[:12])
    arguments = arguments_of(folder, engine_name(given, digest), host, port, max_rank, more)
    command = [sys.executable, "-m", vllm.entry(), *arguments, *guards]
    found = vllm.environment(str(folder), os.environ, cpu=vllm.on_cpu())
    found |= {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", "VLLM_USE_RUST_FRONTEND": "0"}
    os.execve(sys.executable, command, found)  # no shell wanted


def arguments_of(
    folder: Path, name: str, host: str, port: int, max_rank: int, more: Sequence[str]
) -> list[str]:
    """vLLM's command line; `more` comes last and wins. Raises OwnedArgument."""
    vllm.refuse_owned(more, OWNED)
    arguments = ["--model", str(folder), "--served-model-name", name, "--runner", "pooling"]
    arguments += ["--host", host, "--port", str(port), "--disable-uvicorn-access-log"]
    arguments += ["--enable-lora", "--max-lora-rank", str(max_rank)]
    arguments += ["--max-loras", str(MAX_MODELS), "--max-cpu-loras", str(2 * MAX_MODELS)]
    if "--dtype" not in more and vllm.on_cpu() and not vllm.fast_bfloat16():
        arguments += ["--dtype", "float32"]
    return [*arguments, *more]


def _with_head(model: str, target: Path) -> Path:
    """The base with a head of zeros; a hub name is downloaded first."""
    try:
        return reward_base.prepare(_local(model), target)
    except (OSError, ValueError, KeyError) as error:
        raise NoBase(f"{model} can't carry reward models: {error}") from error


def _local(model: str) -> Path:
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(model))
