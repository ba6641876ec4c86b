"""Neural reward models in a vLLM pooling engine: one base, several adapters, asked over HTTP.

`learnback reward-engine` starts such an engine; any `vllm --runner pooling` does that serves the
base with a zero `score` head under `engine_name` and allows adapters at run time. An adapter has
its version's name there, which is never reused, so no cached prefix is of another model; it is
unloaded once nobody asks it here any more. `/classify` takes chat messages, so the engine renders
them as training did; `/score` does not.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import httpx

from learnback.core.errors import Unavailable
from learnback.core.settings import CommonSettings
from learnback.models.plain_text import NotPlainText, plain_messages, plain_text
from learnback.models.reward import Item, NeuralDescription, RewardModels, Scored
from learnback.registry.store import version_name

ATTEMPTS = 3
"""Of one request: pauses of 0.2 and 0.4 s outlast a hiccup; an outage is for the caller."""
PAUSE_S = 0.2
TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
CONCURRENCY = 32
"""Requests at once: an engine batches them, and none waits long in its queue."""
TIMEOUT_S = 20.0
"""Of one request; under the 30 s after which another worker would take the batch over."""


class PoolingEngine:
    """A client of the engine. `close` it at the end."""

    def __init__(
        self,
        url: str,
        *,
        key: str = "",
        concurrency: int = CONCURRENCY,
        timeout_s: float = TIMEOUT_S,
        pause_s: float = PAUSE_S,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.pause_s = pause_s
        limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        self.client = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=timeout_s,
            limits=limits,
            transport=transport,
            trust_env=False,
        )
        self.threads = ThreadPoolExecutor(concurrency, "reward-engine")
        self._held: Counter[str] = Counter()
        self._forgotten: list[str] = []
        self._lock = threading.Lock()

    def open(self, name: str, folder: Path, description: NeuralDescription) -> PooledModel:
        """Let the engine load the adapter in `folder`, which it must see under the same path.

        Raises ValueError if it serves another base or refuses the adapter, Unavailable if it is
        away.
        """
        served = [str(model.get("id")) for model in self._get("/v1/models").get("data", ())]
        wanted = engine_name("", description.base_digest).rsplit("-", 1)[-1]
        if not any(wanted in one for one in served):
            raise ValueError(
                f"the engine at {self.url} serves {', '.join(served)}, not a base with the digest "
                f"{wanted}: start it with `learnback reward-engine` on {description.base_model}"
            )
        self._held[name] += 1  # before it is loaded, so that no sweep unloads it between
        model = PooledModel(self, name, folder.absolute(), description)
        self.load(model)
        return model

    def load(self, model: PooledModel) -> None:
        """Let the engine load an adapter, if it has not. Raises ValueError, Unavailable."""
        self._sweep()
        body = {"lora_name": model.name, "lora_path": str(model.folder)}
        response = self.post("/v1/load_lora_adapter", body)
        if response.is_error and "already" not in response.text:
            raise ValueError(f"the engine refuses it: {_said(response)}")

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        """The engine's answer, tried again where that may help. Raises Unavailable."""
        problem = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(self.pause_s * 2 ** (attempt - 1))
            try:
                response = self.client.post(path, json=body)
            except httpx.TransportError as error:
                problem = f"{type(error).__name__}: {error}"
                continue
            if response.status_code not in TRANSIENT:
                return response
            problem = _said(response)
        raise Unavailable(f"The reward engine at {self.url} does not answer: {problem}")

    def forget(self, name: str) -> None:
        """Nobody asks this adapter any more. Asks nothing: it is called as garbage is collected."""
        self._forgotten.append(name)

    def close(self) -> None:
        """End all connections and threads."""
        self.threads.shutdown(wait=False, cancel_futures=True)
        self.client.close()

    def _sweep(self) -> None:
        """Unload what nobody holds any more."""
        with self._lock:
            while self._forgotten:
                name = self._forgotten.pop()
                self._held[name] -= 1
                if self._held[name] <= 0:
                    self.post("/v1/unload_lora_adapter", {"lora_name": name})

    def _get(self, path: str) -> dict[str, Any]:
        try:
            response = self.client.get(path)
            if response.status_code == 401:
                raise Unavailable(
                    f"The reward engine at {self.url} refuses our key: LEARNBACK_REWARD_ENGINE_KEY "
                    "must be the same there and here."
                )
            response.raise_for_status()
            return dict(response.json())
        except (httpx.HTTPError, ValueError) as error:
            raise Unavailable(f"The reward engine at {self.url} does not answer: {error}") from None


class PooledModel:
    """One adapter in the engine."""

    kind: Literal["neural"] = "neural"

    def __init__(
        self, engine: PoolingEngine, name: str, folder: Path, description: NeuralDescription
    ) -> None:
        self.engine = engine
        self.name = name
        self.folder = folder
        self.description = description
        weakref.finalize(self, engine.forget, name)

    def score_batch(self, items: Sequence[Item]) -> list[Scored]:
        """See `RewardModel`; the engine forms the batches."""
        return list(self.engine.threads.map(self._score, items))

    def _score(self, item: Item) -> Scored:
        prompt, answer = item
        try:
            said = {"role": "assistant", "content": plain_text(answer)}
            messages = [*plain_messages(prompt), said]
        except NotPlainText as error:
            return Scored(None, str(error))
        body = {"model": self.name, "messages": messages, "use_activation": False}
        response = self.engine.post("/classify", body)
        if response.status_code == 404:  # the engine was started anew, and knows only its base
            self.engine.load(self)
            response = self.engine.post("/classify", body)
        return self._verdict(response)

    def _verdict(self, response: httpx.Response) -> Scored:
        if response.is_error:  # 400: the text, which is too long for it, say
            fault = response.status_code != 400
            return Scored(None, f"the engine refuses it: {_said(response)}", fault=fault)
        try:
            found = response.json()
            (logit,) = found["data"][0]["probs"]
            tokens = int(found["usage"]["prompt_tokens"])
        except (ValueError, LookupError, TypeError) as error:
            return Scored(None, f"the engine's answer has another shape: {error}", fault=True)
        return self.description.calibrated(float(logit), tokens)


def models_of(common: CommonSettings, *, concurrency: int = CONCURRENCY) -> RewardModels:
    """What opens reward models in a process with these settings; `close` it at the end."""
    url, key = common.reward_engine_url, common.reward_engine_key.get_secret_value()
    engine = PoolingEngine(url, key=key, concurrency=concurrency) if url else None
    return RewardModels(base=common.model, engine=engine)


def engine_name(base: str, digest: str) -> str:
    """Under which name an engine serves a base: it holds the digest, so that none is mistaken."""
    return version_name(base, "reward-base", digest)


def _said(response: httpx.Response) -> str:
    return f"{response.status_code}: {response.text[:300]}"
