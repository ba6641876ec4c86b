"""The inference process alone with a real vLLM, for tests whose subject is what it serves.

The vLLM is its own, or one that was there before and knows nothing of us.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from learnback.contracts.messages import CompletionServed
from learnback.contracts.models import VersionKind
from learnback.contracts.streams import COMPLETIONS
from learnback.core import valkey, vllm
from learnback.core.clock import now
from learnback.ledger.database import Database
from learnback.local.supervisor import free_port
from learnback.registry import store
from learnback.registry.artifacts import ArtifactStore, digest_model
from learnback.registry.store import ModelVersion, version_name

START_S = 300.0
STOP_S = 60.0
ENGINE_ARGS = (
    "--max-model-len 512 --max-num-seqs 32 --dtype float32 "
    "--enable-auto-tool-choice --tool-call-parser hermes"
)
SMALL = {"OMP_NUM_THREADS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}


@dataclass(frozen=True)
class Engine:
    """A running `learnback inference`."""

    url: str
    redis_url: str
    home: Path
    model: Path
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def base(self) -> str:
        """The version name of the base."""
        return version_name(str(self.model), "base", digest_model(str(self.model)))

    @property
    def database_url(self) -> str:
        """Its ledger."""
        return f"sqlite:///{self.home / 'ledger.db'}"

    def recorded(self, completion_id: str, timeout_s: float = 30) -> CompletionServed:
        """The record of an answer, once it is on the stream."""
        deadline = time.monotonic() + timeout_s
        with Redis.from_url(self.redis_url) as redis:
            while time.monotonic() < deadline:
                entries: Any = redis.xrevrange(COMPLETIONS.key, count=100)
                for _, fields in entries:
                    served = CompletionServed.model_validate_json(fields[b"body"])
                    if served.id == completion_id:
                        return served
                time.sleep(0.05)
        pytest.fail(f"{completion_id} was never recorded")

    def register(self, adapter: Path, method: str = "dpo") -> str:
        """Store and register an adapter; its version name."""
        digest = ArtifactStore(f"file://{self.home / 'artifacts'}").put(adapter, adapter.name)
        name = version_name(str(self.model), method, digest)
        self.enter(name, kind=VersionKind.ADAPTER, artifact=adapter.name, artifact_digest=digest)
        return name

    def register_prompts(self, bank: Path, **config: Any) -> str:
        """Store a bank and register a few-shot version with it; its version name."""
        digest = ArtifactStore(f"file://{self.home / 'artifacts'}").put(bank, bank.name)
        name = version_name(str(self.model), "few-shot", digest)
        self.enter(
            name,
            kind=VersionKind.PROMPT,
            artifact=bank.name,
            artifact_digest=digest,
            config={"strategy": "few_shot", "bank": digest, **config},
        )
        return name

    def enter(self, name: str, **values: Any) -> None:
        """Register a version on this engine's base."""
        version = ModelVersion(
            name=name,
            base=str(self.model),
            base_digest=digest_model(str(self.model)),
            code_version="test",
            created_at=now(),
            changed_at=now(),
            **values,
        )

        async def write() -> None:
            database = Database(self.database_url)
            async with database.write() as connection:
                await store.register(connection, version)
            await database.close()

        asyncio.run(write())


@contextmanager
def running_before_vllm(model: Path, home: Path) -> Iterator[Engine]:
    """`learnback inference --engine-url` before a vLLM of somebody's own."""
    url = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", vllm.entry(), "--model", str(model)]
    command += ["--port", url.rpartition(":")[2], "--enable-lora", "--max-lora-rank", "16"]
    given = os.environ | SMALL | {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
    environment = vllm.environment(str(model), given, cpu=vllm.on_cpu())
    with running([*command, *shlex.split(ENGINE_ARGS)], environment, home / "vllm.log") as own:
        wait_ready(own, f"{url}/health", home / "vllm.log")
        with running_engine(model, home, "--engine-url", url) as engine:
            yield engine


@contextmanager
def running_engine(model: Path, home: Path, *options: str, **environment: str) -> Iterator[Engine]:
    """`learnback inference`: start it, wait until it is ready, and stop it as Kubernetes does."""
    broker = valkey.start(home / "valkey")
    redis_url = f"redis://127.0.0.1:{broker.port}/0"
    port = free_port()
    log = home / "inference.log"
    given = {
        "LEARNBACK_HOME": str(home),
        "LEARNBACK_MODEL": str(model),
        "LEARNBACK_REDIS_URL": redis_url,
        "LEARNBACK_INFERENCE_PORT": str(port),
        "LEARNBACK_INFERENCE_ENGINE_ARGS": ENGINE_ARGS,
    }
    command = [sys.executable, "-m", "learnback.cli", "inference", *options]
    try:
        with running(command, {**os.environ, **SMALL, **given, **environment}, log) as process:
            url = f"http://127.0.0.1:{port}"
            wait_ready(process, f"{url}/readyz", log)
            yield Engine(url, redis_url, home, model, process, log)
    finally:
        broker.stop()


@contextmanager
def running(
    command: list[str], environment: dict[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends within its time when it is told to."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env=environment, stdout=out, stderr=out, start_new_session=True
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
            raise


def wait_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Until `url` answers 200; fails with the log's end if it ends before, or takes too long."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.3)
    pytest.fail(f"it did not start: {url}\n{log.read_text(errors='replace')[-6000:]}")


def make_adapter(folder: Path, seed: int, scale: float = 1.0) -> Path:
    """A random LoRA for the tiny Llama, large enough to change what it says."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for layer in range(2):
        stem = f"base_model.model.model.layers.{layer}.mlp.down_proj"
        weights[f"{stem}.lora_A.weight"] = scale * torch.randn(8, 128, generator=generator)
        weights[f"{stem}.lora_B.weight"] = scale * torch.randn(64, 8, generator=generator)
    save_file(weights, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": 8,
        "lora_alpha": 16,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": ["down_proj"],
        "base_model_name_or_path": "tiny",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
