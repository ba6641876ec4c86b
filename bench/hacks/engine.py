"""Answers with real weights in this process, by the protocol that evaluations use."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from learnback.release.engine import Answer, Sampling

NOT_OFFERED = "400: this engine enforces no formats"


@dataclass
class Waiting:
    """A request that waits for its batch."""

    version: str
    messages: list[dict[str, Any]]
    sampling: Sampling
    answer: asyncio.Future[Answer]


@dataclass
class LocalEngine:
    """Base and adapters of one model; what is asked at the same time is one batch."""

    base: Path
    seed: int
    models: dict[str, Any] = field(default_factory=dict)
    waiting: list[Waiting] = field(default_factory=list)

    def __post_init__(self) -> None:
        torch.manual_seed(self.seed)
        self.tokenizer = AutoTokenizer.from_pretrained(str(self.base), padding_side="left")

    def load(self, version: str, adapter: Path | None) -> None:
        """Serve the base, or the base with an adapter, under a name."""
        model = AutoModelForCausalLM.from_pretrained(str(self.base))
        if adapter is not None:
            model = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
        self.models[version] = model.eval()

    async def wait_served(self, version: str) -> str | None:
        """Everything that was loaded answers at once."""
        return None if version in self.models else f"no model {version}"

    async def answer(
        self,
        version: str,
        messages: Sequence[dict[str, Any]],
        sampling: Sampling,
        seed: int,
        extra: Mapping[str, Any] | None = None,
        tenant: str | None = None,
    ) -> Answer:
        """One answer, made with all that are asked at the same time."""
        if extra:
            return Answer(None, NOT_OFFERED, refused=True)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.waiting.append(Waiting(version, list(messages), sampling, future))
        if len(self.waiting) == 1:
            asyncio.get_running_loop().call_later(0.001, self._flush)
        return await future

    def _flush(self) -> None:
        waiting, self.waiting = self.waiting, []
        for version, sampling in dict.fromkeys((w.version, w.sampling) for w in waiting):
            batch = [w for w in waiting if (w.version, w.sampling) == (version, sampling)]
            found = self.generate(version, [w.messages for w in batch], sampling)
            for one, answer in zip(batch, found, strict=True):
                one.answer.set_result(answer)

    def generate(
        self, version: str, conversations: Sequence[list[dict[str, Any]]], sampling: Sampling
    ) -> list[Answer]:
        """A batch of answers of one version."""
        texts = [
            self.tokenizer.apply_chat_template(c, add_generation_prompt=True, tokenize=False)
            for c in conversations
        ]
        asked = self.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        warm = sampling.temperature > 0
        settings = {"temperature": sampling.temperature, "top_k": 0} if warm else {}
        with torch.no_grad():
            made = self.models[version].generate(
                input_ids=asked["input_ids"],
                attention_mask=asked["attention_mask"],
                max_new_tokens=sampling.max_tokens,
                do_sample=warm,
                pad_token_id=self.tokenizer.pad_token_id,
                **settings,
            )
        end = self.tokenizer.eos_token_id
        return [self._read(row[asked["input_ids"].shape[1] :].tolist(), end) for row in made]

    def _read(self, tokens: list[int], end: int) -> Answer:
        cut = end not in tokens
        said = tokens if cut else tokens[: tokens.index(end)]
        return Answer(self.tokenizer.decode(said, skip_special_tokens=True).strip(), cut=cut)
