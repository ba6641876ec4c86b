"""What is measured against what: our scorers, and what one would write by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from learnback.local.default_model import NAME, cache_folder
from learnback.models import smollm2
from learnback.models.linear_reward import LinearRewardModel, Pair, fit
from learnback.models.reward import Item, LinearModel, load
from learnback.registry.artifacts import digest_model

Contender = tuple[str, Callable[[list[Item]], Any]]

SAME = 1e-4
"""The two must say the same, or they do not do the same work."""


def neural_pair(
    model: str | None, scratch: Path, items: list[Item], threads: int | None
) -> list[Contender]:
    """The reward process's way, and plain transformers: one pass over the texts each."""
    import torch

    if threads:
        torch.set_num_threads(threads)
    base = Path(model) if model else smollm2.prepare(cache_folder() / NAME)
    folder = _adapter(base, scratch / "reward")
    ours = load(folder)
    bare = Bare(base, folder, ours.base.batch_tokens)  # type: ignore[attr-defined]
    found, expected = [s.score for s in ours.score_batch(items)], bare(items)
    gap = max(abs(a - b) for a, b in zip(found, expected, strict=True))
    if gap > SAME:
        raise SystemExit(f"the scores differ by {gap:g}: there is nothing to compare")
    return [("ours", ours.score_batch), ("bare", bare)]


def linear_pair(items: list[Item]) -> list[Contender]:
    """The linear model with its reasons, and a loop over its scores alone."""
    pairs = [Pair(prompt, answer, "no.") for prompt, answer in items[:100]]
    model: LinearRewardModel = fit(pairs)
    return [("ours", LinearModel(model).score_batch), ("bare", model.score_many)]


class Bare:
    """transformers and PEFT as their manuals have it: render, tokenize, sort, pad, run."""

    def __init__(self, base: Path, folder: Path, batch_tokens: int) -> None:
        import torch
        from peft import PeftModel
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self.batch_tokens = batch_tokens
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if self.device == "cuda" else torch.float32
        self.tokenizer = AutoTokenizer.from_pretrained(base)
        model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=dtype)
        model.config.pad_token_id = self.tokenizer.pad_token_id
        self.model = PeftModel.from_pretrained(model, folder).to(self.device).eval()

    def __call__(self, items: list[Item]) -> list[float]:
        """The logits in order; the adapter's temperature is 1 and its centre 0."""
        import torch

        texts = [
            self.tokenizer.apply_chat_template(
                [*prompt, {"role": "assistant", "content": answer}], tokenize=False
            )
            for prompt, answer in items
        ]
        ids = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        found = [0.0] * len(ids)
        while order:
            size = max(1, self.batch_tokens // len(ids[order[0]]))
            batch, order = order[:size], order[size:]
            padded = self.tokenizer.pad({"input_ids": [ids[i] for i in batch]}, return_tensors="pt")
            with torch.inference_mode():
                logits = self.model(**padded.to(self.device), use_cache=False).logits[:, 0]
            for i, logit in zip(batch, logits.float().tolist(), strict=True):
                found[i] = logit
        return found


def _adapter(base: Path, folder: Path) -> Path:
    """A random adapter of the usual size on all linear layers, with a score head."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    config = LoraConfig(
        task_type="SEQ_CLS",
        r=16,
        target_modules="all-linear",
        modules_to_save=["score"],
        init_lora_weights=False,
    )
    get_peft_model(model, config).save_pretrained(folder)
    description = {
        "kind": "neural",
        "base_model": str(base),
        "base_digest": digest_model(str(base)),
    }
    description |= {"temperature": 1.0, "center": 0.0, "max_length": 4096}  # type: ignore[dict-item]
    (folder / "reward.json").write_text(json.dumps(description))
    return folder
