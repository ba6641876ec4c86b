"""Neural reward models in this process: adapters with a score head on base models that they share.

Texts are rendered, cut into tokens and pooled as in training, so that a score means here what it
meant there: the chat template over prompt and answer, no special tokens beside the template's, the
logit at the last token.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as transformers_logging

from learnback.models.plain_text import NotPlainText, plain_messages, plain_text
from learnback.models.reward import Item, NeuralDescription, Scored, is_adapter
from learnback.models.reward_head import at_the_end
from learnback.registry.artifacts import digest_model

CPU_TOKENS, GPU_TOKENS = 2_048, 32_768
"""Padded tokens in one forward pass: more gains no speed, and takes memory from others."""
WHOLE = ""
"""The adapter of a model that has none: its head is trained, and all its weights may be."""


class NeuralModel:
    """One adapter on a shared base. Its memory is freed when nobody holds it any more."""

    kind: Literal["neural"] = "neural"

    def __init__(self, base: SharedBase, adapter: str, description: NeuralDescription) -> None:
        self.base = base
        self.adapter = adapter
        self.description = description
        weakref.finalize(self, base.forget, adapter)

    def score_batch(self, items: Sequence[Item]) -> list[Scored]:
        """See `RewardModel`."""
        ids = self.base.tokenize(items)
        fitting = {
            place: tokens
            for place, tokens in enumerate(ids)
            if not isinstance(tokens, str) and len(tokens) <= self.description.max_length
        }
        logits = self.base.logits(self.adapter, list(fitting.values()))
        found = dict(zip(fitting, logits, strict=True))
        return [self._verdict(tokens, found.get(place)) for place, tokens in enumerate(ids)]

    def _verdict(self, tokens: list[int] | str, logit: float | None) -> Scored:
        if isinstance(tokens, str):
            return Scored(None, tokens)
        return self.description.calibrated(0.0 if logit is None else logit, len(tokens))


class SharedBase:
    """A base model in memory, with the adapters that it carries."""

    def __init__(self, path: str) -> None:
        """Blocks while it loads. Raises OSError, ValueError or RuntimeError if it can't be."""
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        on_gpu = self.device == "cuda"
        self.batch_tokens = GPU_TOKENS if on_gpu else CPU_TOKENS
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        dtype = torch.bfloat16 if on_gpu else torch.float32
        with _quietly():
            model = AutoModelForSequenceClassification.from_pretrained(
                path, num_labels=1, dtype=dtype
            )
        self.model: Any = model.to(self.device).eval()
        self.carries = 0
        self._numbers = itertools.count()
        self._forgotten: list[str] = []
        self._lock = threading.Lock()

    def add(self, folder: Path) -> str:
        """Load an adapter; the name by which it is asked. Raises whatever its files provoke."""
        with self._lock:
            self._sweep()
            name = f"adapter-{next(self._numbers)}"
            if self.carries:
                self._add_beside(name, folder)
            else:
                self.model = PeftModel.from_pretrained(self.model, folder, adapter_name=name)
            self.model.eval()
            self.carries += 1
            return name

    def _add_beside(self, name: str, folder: Path) -> None:
        try:
            self.model.load_adapter(folder, adapter_name=name, torch_device=self.device)
        except Exception:  # whatever it was, half an adapter must not stay
            with contextlib.suppress(Exception):
                self.model.delete_adapter(name)
            raise

    def forget(self, adapter: str) -> None:
        """Nobody asks this adapter any more. No lock: it is called as garbage is collected."""
        self._forgotten.append(adapter)

    def tokenize(self, items: Sequence[Item]) -> list[list[int] | str]:
        """The tokens of each item, or why there are none."""
        texts = [self._render(*item) for item in items]
        good = [text for text, error in texts if error is None]
        left = iter(self._encode(good) if good else [])
        return [next(left) if error is None else error for _, error in texts]

    def _encode(self, texts: list[str]) -> list[list[int]]:
        plain = {"add_special_tokens": False, "return_attention_mask": False}
        encoded: list[list[int]] = self.tokenizer(texts, **plain)["input_ids"]
        return encoded

    def _render(self, prompt: Sequence[Any], answer: str) -> tuple[str, str | None]:
        try:
            said = {"role": "assistant", "content": plain_text(answer)}
            messages = [*plain_messages(prompt), said]
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False)), None
        except NotPlainText as error:
            return "", str(error)
        except Exception as error:  # a template may raise what it likes, of roles that it lacks
            return "", f"the chat template refuses it: {error}"

    def logits(self, adapter: str, sequences: Sequence[list[int]]) -> list[float]:
        """What the adapter's head says of each sequence.

        The same sequences are batched in the same way in whatever order they come, so that scores
        do not depend on it, not even in the last digit.
        """
        order = sorted(range(len(sequences)), key=lambda i: (-len(sequences[i]), sequences[i]))
        found = [0.0] * len(sequences)
        for batch in _batches(order, sequences, self.batch_tokens):
            said = self._forward(adapter, [sequences[i] for i in batch])
            for i, logit in zip(batch, said, strict=True):
                found[i] = logit
        return found

    def _forward(self, adapter: str, batch: Sequence[list[int]]) -> list[float]:
        width = max(map(len, batch))
        ids = torch.zeros((len(batch), width), dtype=torch.long)  # (batch, seq)
        mask = torch.zeros((len(batch), width), dtype=torch.long)
        for row, tokens in enumerate(batch):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
        with self._lock, torch.inference_mode():  # one at a time: the adapter is the model's state
            self._sweep()
            if adapter != WHOLE and self.model.active_adapter != adapter:
                self.model.set_adapter(adapter)
            rewards = at_the_end(self.model, ids.to(self.device), mask.to(self.device))
        found: list[float] = rewards.tolist()
        return found

    def _sweep(self) -> None:
        """Free what was forgotten, but for the last: PEFT wants one adapter at least."""
        while self._forgotten and self.carries > 1:
            self.model.delete_adapter(self._forgotten.pop(0))
            self.carries -= 1


class Bases:
    """Base models in memory, by their digests, for as long as somebody holds a model on them."""

    def __init__(self) -> None:
        self._bases: weakref.WeakValueDictionary[str, SharedBase] = weakref.WeakValueDictionary()
        self._lock = threading.Lock()

    def open(self, folder: Path, description: NeuralDescription, base: str = "") -> NeuralModel:
        """The model in `folder`: an adapter, or all weights, which then share nothing.

        Raises ValueError if it, or its base, is not what it should be.
        """
        if not is_adapter(folder):
            return NeuralModel(_load_whole(str(folder)), WHOLE, description)
        _check_adapter(folder)
        with self._lock:
            shared = self._bases.get(description.base_digest)
            if shared is None:
                shared = _load_base(description, base)
            try:
                model = NeuralModel(shared, shared.add(folder), description)
            except Exception as error:  # safetensors, PEFT and torch each raise their own
                if not shared.carries:  # it may be half wrapped
                    self._bases.pop(description.base_digest, None)
                raise ValueError(f"{folder.name}: {type(error).__name__}: {error}") from error
            self._bases[description.base_digest] = shared
            return model


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without transformers' warning that the base has no trained head: the adapter brings it."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def _check_adapter(folder: Path) -> None:
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        saved = config.get("modules_to_save") or ()
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"no adapter in {folder.name}: {error}") from error
    if "score" not in saved:
        raise ValueError(f"the adapter in {folder.name} has no score head")


def _load_whole(path: str) -> SharedBase:
    try:
        return SharedBase(path)
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} can't be loaded: {error}") from error


def _load_base(description: NeuralDescription, base: str) -> SharedBase:
    """The trainer's base model, from where the trainer had it or from `base`, digest checked."""
    for path in dict.fromkeys((description.base_model, base)):
        if path and digest_model(path) == description.base_digest:
            return _load_whole(path)
    looked = " or ".join(filter(None, (description.base_model, base)))
    raise ValueError(
        f"its base model (digest {description.base_digest[:12]}) is not at {looked}: "
        "set LEARNBACK_MODEL to its folder"
    )


def _batches(
    order: Sequence[int], sequences: Sequence[list[int]], budget: int
) -> Iterator[Sequence[int]]:
    """Neighbours in `order`, longest first, as many as fit the budget when padded."""
    start = 0
    while start < len(order):
        size = max(1, budget // max(1, len(sequences[order[start]])))
        yield order[start : start + size]
        start += size
