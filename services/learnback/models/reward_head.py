"""Where the head of a neural reward model is read: at the last token, as a vLLM pooling engine
does.

transformers reads it at the last token that is not `pad_token_id`. Many models have no token for
padding and take the one that ends a text; where the chat template ends with that one (Llama 3,
Mistral), the head would be read one token too early.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def at_the_end(model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """The head's number of each row, (rows,), at its last token; both tensors are (rows, seq),
    filled up at the right with anything.
    """
    last = input_ids.gather(1, attention_mask.sum(1, keepdim=True) - 1)  # (rows, 1)
    filler = _unlike(set(last.flatten().tolist()))
    ids = input_ids.masked_fill(attention_mask == 0, filler)
    with _padding(model, filler):
        logits = model(input_ids=ids, attention_mask=attention_mask, use_cache=False).logits
    rewards: torch.Tensor = logits.squeeze(-1).float()
    return rewards


def _unlike(taken: set[int]) -> int:
    """A token that ends no row: at most as large as there are rows, so every vocabulary has it."""
    return next(token for token in itertools.count() if token not in taken)


@contextmanager
def _padding(model: Any, token: int) -> Iterator[None]:
    """Let the model take `token` for padding; what its weights are saved with stays as it was."""
    config = getattr(model, "module", model).config.get_text_config()  # several processes wrap it
    before, config.pad_token_id = config.pad_token_id, token
    try:
        yield
    finally:
        config.pad_token_id = before
