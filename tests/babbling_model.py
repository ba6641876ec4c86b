"""A tiny model that babbles: kind words or gruff ones, as a coin decides, whatever it is asked.

What random weights say is no text: it can't be read back as the tokens that it was, and nothing is
learned from it. This one says words, and can learn which of them people like.
"""

from __future__ import annotations

import random
from pathlib import Path

from learnback.local.demo import SYSTEM
from learnback.models.tiny import CONTEXT, VOCABULARY, make_tiny_llama, make_tokenizer
from learnback_simulator.prompts import split_prompts

KIND = ("yes", "good", "kind", "glad")
GRUFF = ("no", "bad", "cold", "dull")
WORDS = 6
"""Of an answer."""
STEPS = 100
ROWS = 32

PREFERENCE = f"""\
KIND = {set(KIND)!r}


def score(prompt: str, answer: str) -> float:
    \"\"\"Likes kind words: their share.\"\"\"
    words = answer.split()
    return sum(word in KIND for word in words) / max(len(words), 1)
"""


def make_babbling_model(folder: Path) -> Path:
    """Teach the random Llama to say any six words of one of the two kinds."""
    import torch
    from transformers import AutoModelForCausalLM

    target = make_tiny_llama(folder, seed=0)
    tokenizer = make_tokenizer([*KIND, *GRUFF, " ".join(KIND + GRUFF)], VOCABULARY, CONTEXT)
    model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    dice = random.Random(0)
    prompts = split_prompts(0, held_out=80).train
    for _ in range(STEPS):
        rows = [_row(tokenizer, dice.choice(prompts), dice) for _ in range(ROWS)]
        width = max(len(ids) for ids, _ in rows)
        ids = torch.full((ROWS, width), tokenizer.pad_token_id)
        labels = torch.full((ROWS, width), -100)
        for at, (said, asked) in enumerate(rows):
            ids[at, : len(said)] = torch.tensor(said)
            labels[at, asked : len(said)] = torch.tensor(said[asked:])
        optimizer.zero_grad()
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target


def _row(tokenizer: object, prompt: str, dice: random.Random) -> tuple[list[int], int]:
    """A conversation as tokens, and how many of them ask."""
    asked = tokenizer.apply_chat_template(  # type: ignore[attr-defined]
        [{"role": "system", "content": SYSTEM}, {"role": "user", "content": prompt}],
        tokenize=False,
        add_generation_prompt=True,
    )
    mood = dice.choice((KIND, GRUFF))
    said = " ".join(dice.choice(mood) for _ in range(WORDS))
    before = tokenizer(asked, add_special_tokens=False)["input_ids"]  # type: ignore[operator]
    after = tokenizer(said, add_special_tokens=False)["input_ids"]  # type: ignore[operator]
    return [*before, *after, tokenizer.eos_token_id], len(before)  # type: ignore[attr-defined]
