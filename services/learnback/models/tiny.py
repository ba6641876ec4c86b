"""A random Llama of about 100,000 parameters with its own tokenizer: for tests, made in a second,
nothing downloaded.

It says nothing sensible, yet vLLM serves it and TRL trains it. The head dimension is 32, the
smallest that vLLM's CPU attention takes.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from learnback.models.smollm2 import is_complete, publish_directory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

VOCABULARY = 320  # 256 bytes, 4 special tokens, the rest merges
CONTEXT = 512  # tokens
SPECIAL_TOKENS = "<|pad|>", "<|im_start|>", "<|im_end|>", "<|endoftext|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
CORPUS = (
    "user assistant system hello thanks please yes no good bad morning night",
    "what is the answer to this question and how are you today",
    "the quick brown fox jumps over the lazy dog while the cat sleeps",
)


def make_tiny_llama(directory: Path, seed: int = 0) -> Path:
    """Write a random Llama and tokenizer into ``directory`` unless they are there, and return
    ``directory``.

    The same seed gives the same weights. Like ``smollm2.prepare``, the directory appears whole or
    not at all.
    """
    directory = Path(directory)
    if is_complete(directory):
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        tokenizer = make_tokenizer(CORPUS, VOCABULARY, CONTEXT)
        tokenizer.save_pretrained(partial)
        _model(tokenizer, seed).save_pretrained(partial)
        publish_directory(partial, directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return directory


def make_tokenizer(corpus: Iterable[str], vocabulary: int, context: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with our chat template, made of the words of `corpus`.

    `vocabulary` is its size; `context` the longest text of a model, in tokens.
    """
    from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<|pad|>",
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        unk_token="<|endoftext|>",
        model_max_length=context,
        chat_template=CHAT_TEMPLATE,
    )


def _model(tokenizer: PreTrainedTokenizerFast, seed: int) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)
