"""`learnback reward-engine`: a real vLLM pooling engine scores as this process does."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.e2e.engine import SMALL, running, wait_ready
from tests.reward_models import make_neural
from tests.tiny_model import turned

from learnback.core.errors import Unavailable
from learnback.local.supervisor import free_port
from learnback.models.pooling_reward import PoolingEngine
from learnback.models.reward import Item, RewardModels, load

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]

KEY = "for the reward engine alone"
WORDS = "the quick brown fox jumps over the lazy dog"
BEARER = {"Authorization": f"Bearer {KEY}"}
NEAR = 1e-3
"""In float32; random adapters are larger than trained ones, and so are their rounding errors."""
ITEMS: list[Item] = [
    (({"role": "user", "content": f"question {n % 4}"},), " ".join([WORDS] * (1 + n % 3)) + str(n))
    for n in range(24)
]


@pytest.fixture(scope="module")
def base(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with the turns of Llama 3: the last token of a text is that for padding."""
    folder = tmp_path_factory.mktemp("models") / "ends-as-it-pads"
    return turned(tiny_llama, folder, "<|im_end|>", pad_token="<|im_end|>")


@pytest.fixture(scope="module")
def engine_url(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running engine on the base, with no reward model in it yet."""
    home = tmp_path_factory.mktemp("reward-engine")
    url = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "learnback.cli", "reward-engine", "--model", str(base)]
    command += ["--port", url.rsplit(":", 1)[1], "--max-model-len", "512"]
    command += ["--max-num-seqs", "32"]
    own = {"LEARNBACK_HOME": str(home), "LEARNBACK_REWARD_ENGINE_KEY": KEY}
    log = home / "engine.log"
    with running(command, os.environ | SMALL | own, log) as process:
        wait_ready(process, f"{url}/health", log)
        yield url


def test_without_its_key_the_engine_says_only_that_it_lives(engine_url: str) -> None:
    with httpx.Client(base_url=engine_url, trust_env=False) as stranger:
        for path in ("/classify", "/pooling", "/v1/load_lora_adapter", "/tokenize"):
            for headers in ({}, {"Authorization": "Bearer wrong"}):
                assert stranger.post(path, json={}, headers=headers).status_code == 401, path
        assert stranger.get("/v1/models").status_code == 401
        assert stranger.get("/metrics").status_code == 200
    with pytest.raises(Unavailable, match="LEARNBACK_REWARD_ENGINE_KEY"):
        PoolingEngine(engine_url, key="wrong")._get("/v1/models")


def test_the_engine_scores_each_model_as_transformers_does_also_after_a_swap(
    engine_url: str, base: Path, tmp_path: Path
) -> None:
    folders = [make_neural(tmp_path / f"reward-{n}", base, n) for n in range(3)]
    expected = [[s.score for s in load(folder).score_batch(ITEMS)] for folder in folders]
    engine = PoolingEngine(engine_url, key=KEY)
    models = RewardModels(engine=engine)
    first, second = (models.open(folder.name, folder) for folder in folders[:2])
    for model, there in ((first, expected[0]), (second, expected[1]), (first, expected[0])):
        assert [s.score for s in model.score_batch(ITEMS)] == pytest.approx(there, abs=NEAR)
    assert expected[0] != pytest.approx(expected[1], abs=10 * NEAR), (
        "they must differ to tell anything"
    )
    del first, model
    gc.collect()
    third = models.open(folders[2].name, folders[2])
    listed = httpx.get(f"{engine_url}/v1/models", headers=BEARER, trust_env=False).json()["data"]
    assert folders[0].name not in {m["id"] for m in listed}, "nobody holds it any more"
    assert [s.score for s in third.score_batch(ITEMS)] == pytest.approx(expected[2], abs=NEAR)
    assert [s.score for s in second.score_batch(ITEMS)] == pytest.approx(expected[1], abs=NEAR)
    long = models.open("short-sighted", make_neural(tmp_path / "s", base, 3, max_length=45))
    assert long.score_batch(ITEMS[2:3])[0].score is None
    engine.close()
