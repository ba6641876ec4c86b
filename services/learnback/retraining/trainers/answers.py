"""Ten answers before and after a run, for people to look at."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from learnback.retraining.trainers.encoding import Encoder, Skip
from learnback.retraining.trainers.loading import end_tokens, reference
from learnback.retraining.trainers.rollouts import generate
from learnback.retraining.trainers.rows import Messages

SHOWN = 10
MAX_NEW_TOKENS = 64
MAX_SECONDS = 20.0
"""For each of the two models; what is not written by then is shown as far as it is."""


class Sample(NamedTuple):
    """One prompt, what the base model says to it, and what the trained one says."""

    prompt: str
    before: str
    after: str


def sample(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Messages],
    *,
    limit: int,
    seed: int,
    copy: Any | None = None,
) -> list[Sample]:
    """Greedy answers to at most ten different prompts, by the base model and by ``model``.

    Prompts that the template refuses, or that leave too little of ``limit`` tokens for an answer,
    are not asked.
    """
    asked = _pick(prompts, Encoder(tokenizer, limit - MAX_NEW_TOKENS), seed)
    tokens = [tokens for _, tokens in asked]
    was_training = model.training
    model.eval()
    with reference(model, copy) as base:
        before = _answer(base, tokenizer, tokens)
    after = _answer(model, tokenizer, tokens)
    model.train(was_training)
    said = [prompt[-1]["content"] for prompt, _ in asked]
    return [Sample(*row) for row in zip(said, before, after, strict=True)]


def _pick(
    prompts: Sequence[Messages], encoder: Encoder, seed: int
) -> list[tuple[Messages, list[int]]]:
    different = list({repr(prompt): prompt for prompt in prompts}.values())
    random.Random(seed).shuffle(different)
    picked: list[tuple[Messages, list[int]]] = []
    for prompt in different:
        with suppress(Skip):
            picked.append((prompt, encoder.question(prompt)))
        if len(picked) == SHOWN:
            break
    return picked


def _answer(model: Any, tokenizer: Any, prompts: Sequence[list[int]]) -> list[str]:
    """One batch."""
    rollouts = generate(
        model,
        prompts,
        1,
        MAX_NEW_TOKENS,
        end_tokens(model.generation_config, tokenizer),
        tokenizer.pad_token_id,
        temperature=0.0,
        deadline=time.monotonic() + MAX_SECONDS,
    )
    return [tokenizer.decode(r.completion, skip_special_tokens=True).strip() for r in rollouts]
