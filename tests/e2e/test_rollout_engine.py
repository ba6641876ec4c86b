"""Policy gradient whose rollouts come from a real vLLM: an adapter each step, and none is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.taught_model import make_taught_model, save_reward_model, write_rloo_run

from learnback.local.supervisor import free_port
from learnback.retraining.plan import read_plan

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]

START_S = 300.0
STOP_S = 60.0


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_taught_model(tmp_path_factory.mktemp("taught"))


@pytest.fixture(scope="module")
def engine_url(taught: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A vLLM of the run's own, started as docs/policy-gradient.md has it."""
    url = f"http://127.0.0.1:{free_port()}"
    command = f"-m vllm.entrypoints.openai.api_server --model {taught} --dtype float32"
    command += f" --port {url.rsplit(':', 1)[1]} --max-model-len 512 --max-num-seqs 32"
    command += " --enable-lora --max-lora-rank 16"
    given = {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "OMP_NUM_THREADS": "1",
    }
    path = tmp_path_factory.mktemp("rollout-engine") / "engine.log"
    with path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *command.split()],
            env={**os.environ, **given},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _wait_ready(process, url, path)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
            raise


def _wait_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/health", trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.3)
    pytest.fail(f"the engine did not start\n{log.read_text(errors='replace')[-6000:]}")


def test_rollouts_of_a_real_engine_are_those_of_the_weights_that_learn(
    tmp_path: Path, taught: Path, engine_url: str
) -> None:
    from learnback.retraining.trainers import rloo, rows
    from learnback.retraining.trainers.progress import ProgressReport, StopRequest, describe

    reward_model = save_reward_model(tmp_path / "reward")
    folder = write_rloo_run(
        tmp_path / "http", taught, reward_model, engine_url=engine_url, max_steps=6,
        checkpoint_every=3,
    )  # fmt: skip
    plan = read_plan(folder)
    report = ProgressReport(folder, describe(plan))
    result = rloo.train(plan, rows.load(folder, "rloo"), folder, report, StopRequest())

    assert max(entry["mismatch_largest"] for entry in result.history) < 1e-3
    assert result.metrics["reward"] > result.history[0]["reward"]
    served = httpx.get(f"{engine_url}/v1/models", trust_env=False).json()["data"]
    assert [entry["parent"] for entry in served] == [None]
    assert not list((folder / "engine").glob("*"))
