"""Ten answers before and after a run, for people to look at."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jinja2 import TemplateError

from learnback.retraining.trainers.loading import reference
from learnback.retraining.trainers.rows import Messages

SHOWN = 10
MAX_NEW_TOKENS = 64
MAX_SECONDS = 20.0
"""For each of the two models; answers are shown as far as they are by then."""


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

    Prompts that leave too little of ``limit`` tokens for an answer are not asked.
    """
    asked = _pick(prompts, tokenizer, limit - MAX_NEW_TOKENS, seed)
    if not asked:
        return []
    texts = [text for _, text in asked]
    was_training = model.training
    model.eval()
    with reference(model, copy) as base:
        before = _generate(base, tokenizer, texts)
    after = _generate(model, tokenizer, texts)
    model.train(was_training)
    said = [prompt[-1]["content"] for prompt, _ in asked]
    return [Sample(*row) for row in zip(said, before, after, strict=True)]


def _pick(
    prompts: Sequence[Messages], tokenizer: Any, room: int, seed: int
) -> list[tuple[Messages, str]]:
    """Different prompts and their texts, those that the template takes and that fit."""
    different = list({repr(prompt): prompt for prompt in prompts}.values())
    random.Random(seed).shuffle(different)
    picked: list[tuple[Messages, str]] = []
    for prompt in different:
        try:
            text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        except TemplateError:
            continue
        if len(tokenizer(text, add_special_tokens=False)["input_ids"]) <= room:
            picked.append((prompt, text))
        if len(picked) == SHOWN:
            break
    return picked


def _generate(model: Any, tokenizer: Any, texts: Sequence[str]) -> list[str]:
    """One batch, filled up at the left, so that all answers begin at one place."""
    inputs = tokenizer(
        list(texts),
        add_special_tokens=False,
        return_tensors="pt",
        padding=True,
        padding_side="left",
    ).to(model.device)
    with torch.no_grad():
        out = model.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=MAX_NEW_TOKENS,
            max_time=MAX_SECONDS,
            pad_token_id=tokenizer.pad_token_id,
        )
    answers = out[:, inputs["input_ids"].shape[1] :]
    return [said.strip() for said in tokenizer.batch_decode(answers, skip_special_tokens=True)]
