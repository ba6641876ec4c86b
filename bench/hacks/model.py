"""A Llama of some 150,000 parameters that speaks the small language, made in seconds."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from bench.hacks.language import answer, prompts
from transformers import LlamaConfig, LlamaForCausalLM

from learnback.models.tiny import make_tokenizer

VOCABULARY = 700  # 256 bytes, 4 special tokens, and nearly every word of the language
CONTEXT = 256
BATCH = 64
WIDTH = 80


def make(folder: Path, seed: int, steps: int) -> Path:
    """Fine-tune a random model on answers of the language; its folder."""
    chance = random.Random(seed)
    torch.manual_seed(seed)
    spoken = [(p, answer(p, chance)) for p in prompts() for _ in range(12)]
    words = [text for pair in spoken for text in pair]
    tokenizer = make_tokenizer(words, VOCABULARY, CONTEXT)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=64,
            intermediate_size=160,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    _teach(model, [_encoded(tokenizer, *pair) for pair in spoken], steps, chance)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _encoded(tokenizer: Any, prompt: str, text: str) -> tuple[list[int], int]:
    """(token ids, length of the prompt)."""
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=False,
    )
    said = tokenizer.encode(text, add_special_tokens=False)
    return [*asked, *said, tokenizer.eos_token_id], len(asked)


def _teach(
    model: Any, rows: list[tuple[list[int], int]], steps: int, chance: random.Random
) -> None:
    rows = [row for row in rows if len(row[0]) <= WIDTH]
    optimiser = torch.optim.AdamW(model.parameters(), lr=6e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 6e-3, total_steps=steps)
    for _ in range(steps):
        batch = chance.sample(rows, BATCH)
        width = max(len(ids) for ids, _ in batch)
        ids = torch.full((BATCH, width), model.config.pad_token_id)  # (batch, seq)
        labels = torch.full((BATCH, width), -100)
        for i, (tokens, start) in enumerate(batch):
            ids[i, : len(tokens)] = torch.tensor(tokens)
            labels[i, start : len(tokens)] = torch.tensor(tokens[start:])
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
