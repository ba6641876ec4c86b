"""An engine with real weights behind the routes of vLLM that rollouts use: adapters are read from
disk, answers and log-probabilities are those of the model. In a thread, while a test lasts.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import uvicorn
from peft import PeftModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from transformers import AutoModelForCausalLM, AutoTokenizer

from learnback.retraining.trainers.rollouts import generate

BASE = "tiny"


@dataclass
class AdapterEngine:
    """What it was told, and how it may misbehave."""

    folder: Path
    adapters: dict[str, Path] = field(default_factory=dict)
    loaded: list[str] = field(default_factory=list)
    """Every name that was ever loaded, in order."""
    asked: list[dict[str, Any]] = field(default_factory=list)
    missing_at_unload: list[str] = field(default_factory=list)
    ignores_adapters: bool = False
    url: str = ""

    def __post_init__(self) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder)
        self.lock = threading.Lock()
        self.dice = torch.Generator().manual_seed(0)

    @property
    def app(self) -> Starlette:
        post = {"methods": ["POST"]}
        return Starlette(
            routes=[
                Route("/v1/models", self.models),
                Route("/v1/load_lora_adapter", self.load, **post),
                Route("/v1/unload_lora_adapter", self.unload, **post),
                Route("/v1/completions", self.complete, **post),
            ]
        )

    async def models(self, request: Request) -> Response:
        served = [{"id": BASE, "parent": None}]
        served += [{"id": name, "parent": BASE} for name in self.adapters]
        return JSONResponse({"object": "list", "data": served})

    async def load(self, request: Request) -> Response:
        body = await request.json()
        name, path = body["lora_name"], Path(body["lora_path"])
        if name in self.loaded or not (path / "adapter_model.safetensors").is_file():
            return JSONResponse({"error": {"message": f"can't load {name}"}}, 400)
        self.adapters[name] = path
        self.loaded.append(name)
        return PlainTextResponse("Success")

    async def unload(self, request: Request) -> Response:
        name = (await request.json())["lora_name"]
        if name not in self.adapters:
            return JSONResponse({"error": {"message": f"{name} is not loaded"}}, 404)
        if not self.adapters.pop(name).is_dir():
            self.missing_at_unload.append(name)
        return PlainTextResponse("Success")

    async def complete(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(body)
        return await asyncio.to_thread(self._complete, body)

    def _complete(self, body: dict[str, Any]) -> Response:
        if body["model"] != BASE and body["model"] not in self.adapters:
            return JSONResponse({"error": {"message": "no such model"}}, 404)
        with self.lock:
            rollouts = generate(
                self._model(body["model"]),
                [body["prompt"]],
                body["n"],
                body["max_tokens"],
                frozenset([self.tokenizer.eos_token_id]),
                self.tokenizer.pad_token_id,
                self.dice,
            )
        choices = [
            {
                "index": i,
                "text": self.tokenizer.decode(r.completion),
                "token_ids": r.completion,
                "logprobs": {"token_logprobs": r.log_probabilities},
                "finish_reason": "stop" if r.finished else "length",
            }
            for i, r in enumerate(rollouts)
        ]
        return JSONResponse({"object": "text_completion", "choices": choices})

    def _model(self, name: str) -> Any:
        model = AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32)
        if name == BASE or self.ignores_adapters:
            return model.eval()
        return PeftModel.from_pretrained(model, str(self.adapters[name])).eval()


@contextmanager
def running(engine: AdapterEngine) -> Iterator[AdapterEngine]:
    """Serve it on a free port."""
    server = uvicorn.Server(
        uvicorn.Config(engine.app, host="127.0.0.1", port=0, log_level="warning", loop="asyncio")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < deadline, "the engine did not start"
        time.sleep(0.01)
    engine.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    yield engine
    server.should_exit = True
    thread.join(10)
