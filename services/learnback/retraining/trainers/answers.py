"""Ten answers before and after a run, for people to look at."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from learnback.retraining.trainers.loading import reference
from learnback.retraining.trainers.rollouts import end_tokens, generate
from learnback.retraining.trainers.rows import Messages

SHOWN = 10
MAX_NEW_TOKENS = 64
MAX_SECONDS = 60.0
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
    """Greedy answers to at most ten different prompts, by the base model and by ``model``."""
    asked = _pick(prompts, seed)
    texts = [
        tokenizer.apply_chat_template(p, tokenize=False, add_generation_prompt=True) for p in asked
    ]
    was_training = model.training
    model.eval()
    with reference(model, copy) as base:
        before = _generate(base, tokenizer, texts, limit)
    after = _generate(model, tokenizer, texts, limit)
    model.train(was_training)
    said = [prompt[-1]["content"] for prompt in asked]
    return [Sample(*row) for row in zip(said, before, after, strict=True)]


def _pick(prompts: Sequence[Messages], seed: int) -> list[Messages]:
    different = list({repr(prompt): prompt for prompt in prompts}.values())
    return random.Random(seed).sample(different, min(SHOWN, len(different)))


def _generate(model: Any, tokenizer: Any, texts: Sequence[str], limit: int) -> list[str]:
    """Answers in one batch; none where there is no room for one."""
    prompts = [list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    asked = [i for i, prompt in enumerate(prompts) if len(prompt) + MAX_NEW_TOKENS <= limit]
    rollouts = generate(
        model,
        [prompts[i] for i in asked],
        1,
        MAX_NEW_TOKENS,
        end_tokens(model, tokenizer),
        tokenizer.pad_token_id,
        temperature=0.0,
        deadline=time.monotonic() + MAX_SECONDS,
    )
    said = {
        i: tokenizer.decode(rollout.completion, skip_special_tokens=True).strip()
        for i, rollout in zip(asked, rollouts, strict=True)
    }
    return [said.get(i, "") for i in range(len(texts))]
