"""Writes answers with one model, with and without adapters, and measures how far from it they are.

Imports torch: only what runs a ladder imports this file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from learnback.retraining.trainers import kl
from learnback.retraining.trainers.encoding import Encoded, padded
from learnback.retraining.trainers.loading import end_tokens, load_tokenizer
from learnback.retraining.trainers.policy import score_tokens
from learnback.retraining.trainers.rollouts import Rollout, generate

Messages = list[dict[str, str]]
ROWS = 32
"""Answers in a batch: on two cores more make no answer come sooner."""
READ_ROWS = 8

Progress = Callable[[int, int], None]


class Writer:
    """One model in memory; `with_adapter` puts an adapter on it for a while."""

    def __init__(self, folder: str, max_tokens: int, seed: int) -> None:
        logging.disable_progress_bar()  # whoever calls shows the progress
        self.tokenizer = load_tokenizer(folder)
        self.base: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=quickest()).eval()
        self.model: Any = self.base
        self.bfloat16 = self.base.dtype == torch.bfloat16
        self.max_tokens = max_tokens
        self.seed = seed
        self.ends = end_tokens(self.base.generation_config, self.tokenizer)

    @contextmanager
    def with_adapter(self, folder: Path | None) -> Iterator[None]:
        """Answers are the adapter's while the context lasts."""
        if folder is None:
            yield
            return
        self.model = PeftModel.from_pretrained(self.base, str(folder)).eval()
        try:
            yield
        finally:
            self.base = self.model.unload()
            self.model = self.base

    def write(
        self,
        chats: Sequence[Messages],
        *,
        samples: int = 1,
        temperature: float = 1.0,
        salt: int = 0,
        progress: Progress = lambda done, total: None,
    ) -> list[list[Rollout]]:
        """(chats, samples) answers; the same seed and `salt` give the same ones."""
        dice = torch.Generator().manual_seed((self.seed << 31) + salt)
        prompts = [self.tokens(chat) for chat in chats]
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # little padding
        together = max(1, ROWS // samples)
        found: dict[int, list[Rollout]] = {}
        for start in range(0, len(order), together):
            batch = order[start : start + together]
            rows = generate(
                self.model,
                [prompts[i] for i in batch],
                samples,
                self.max_tokens,
                self.ends,
                self.tokenizer.pad_token_id,
                dice,
                temperature=temperature,
            )
            for at, i in enumerate(batch):
                found[i] = rows[at * samples : (at + 1) * samples]
            progress(len(found), len(prompts))
        return [found[i] for i in range(len(prompts))]

    def tokens(self, chat: Messages) -> list[int]:
        """A chat up to where the answer begins."""
        text = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def text(self, rollout: Rollout) -> str:
        """What people read."""
        return str(self.tokenizer.decode(rollout.completion, skip_special_tokens=True)).strip()

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def divergence(self, rollouts: Sequence[Rollout], plain: Sequence[Messages]) -> float:
        """KL from the base model that is asked plainly, in nats per answer: exact at each token of
        these answers, which the present model gave, perhaps to another wording of the prompt.
        """
        asked = [self.tokens(chat) for chat in plain[: len(rollouts)]]
        pad, total = self.tokenizer.pad_token_id, 0.0
        for start in range(0, len(rollouts), READ_ROWS):
            part = slice(start, start + READ_ROWS)
            said = [Encoded(r.prompt, r.completion) for r in rollouts[part]]
            told = [
                Encoded(p, r.completion) for p, r in zip(asked[part], rollouts[part], strict=True)
            ]
            ours, _, _ = score_tokens(self.model, padded(said, pad))  # (tokens, vocab)
            with self.switched_off():
                theirs, _, _ = score_tokens(self.model, padded(told, pad))  # the same tokens
            total += kl.exact(ours, theirs).sum().item()
        return total / len(rollouts)

    @contextmanager
    def switched_off(self) -> Iterator[None]:
        """The base model, also while an adapter is on."""
        if self.model is self.base:
            yield
        else:
            with self.model.disable_adapter():
                yield

    def time_learning(self, rollouts: Sequence[Rollout]) -> tuple[float, float]:
        """Seconds to read one of these answers, and to learn from it (with gradients of the upper
        half of the layers, as adapters are trained).
        """
        inputs = padded(
            [Encoded(r.prompt, r.completion) for r in rollouts], self.tokenizer.pad_token_id
        )
        layers = self.base.get_decoder().layers
        upper = [p for layer in layers[len(layers) // 2 :] for p in layer.parameters()]
        self.base.requires_grad_(False)
        started = time.monotonic()
        with torch.no_grad():
            score_tokens(self.base, inputs)
        read = time.monotonic() - started
        for parameter in upper:
            parameter.requires_grad_(True)
        started = time.monotonic()
        _, chances, _ = score_tokens(self.base, inputs)
        chances.sum().backward()
        learn = time.monotonic() - started
        self.base.zero_grad(set_to_none=True)
        self.base.requires_grad_(False)
        return read / len(rollouts), learn / len(rollouts)


def quickest() -> torch.dtype:
    """bfloat16 on a GPU, and on a CPU that multiplies it: with AVX512_BF16 it gave 1.3 times the
    answers a second of float32 (SmolLM2-135M, 32 in a batch), without it a quarter.
    """
    known = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return torch.bfloat16 if torch.cuda.is_available() or known() else torch.float32
