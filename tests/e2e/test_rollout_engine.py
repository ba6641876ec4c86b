"""Policy gradient whose rollouts come from a real vLLM: an adapter each step, and none is left."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.e2e.engine import SMALL, running, wait_ready
from tests.taught_model import make_taught_model, save_reward_model, write_rloo_run

from learnback.local.supervisor import free_port
from learnback.retraining.plan import read_plan

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]


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
    log = tmp_path_factory.mktemp("rollout-engine") / "engine.log"
    environment = os.environ | SMALL | {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
    with running([sys.executable, *command.split()], environment, log) as process:
        wait_ready(process, f"{url}/health", log)
        yield url


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
