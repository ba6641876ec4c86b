"""Rollouts: answers that the policy samples to learn from, by transformers in the job's process.

Sampled as the gradient assumes: temperature 1 and the whole vocabulary, so that the sampler's
probabilities are the policy's. The other source of rollouts is rollout_engine.py.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch

from learnback.retraining.trainers.encoding import Encoder, Skip
from learnback.retraining.trainers.failures import Diverged
from learnback.retraining.trainers.rows import Messages, PromptRow


class Rollout(NamedTuple):
    """One sampled answer to one prompt, in tokens."""

    prompt: list[int]
    completion: list[int]
    """Ends with an end-of-turn token if `finished`, else the token limit cut it off."""
    log_probabilities: list[float]
    """Of each completion token, as the sampler saw it, in nats."""
    finished: bool


class Prompt(NamedTuple):
    """A prompt as people and as the model see it."""

    messages: Messages
    tokens: list[int]


class Sampler(Protocol):
    """Samples `samples` answers to each prompt, in order, from a model as it is now."""

    def sample(
        self,
        model: Any,
        prompts: Sequence[list[int]],
        samples: int,
        max_tokens: int,
        seed: int,
        *,
        base: bool = False,
    ) -> list[list[Rollout]]:
        """(prompts, samples) rollouts; `seed` counts only where the sampler can be seeded. `base`
        says that `model` is the base model.
        """

    def close(self) -> None:
        """Give back what is held."""


class LocalSampler:
    """Samples with the very weights that are trained: the same seed gives the same rollouts."""

    def __init__(self, ends: frozenset[int], pad: int, batch_size: int) -> None:
        self.ends = ends
        self.pad = pad
        self.batch_size = batch_size

    def sample(
        self,
        model: Any,
        prompts: Sequence[list[int]],
        samples: int,
        max_tokens: int,
        seed: int,
        *,
        base: bool = False,
    ) -> list[list[Rollout]]:
        """(prompts, samples) rollouts. What a prompt is answered depends on its place, and on those
        that are asked with it.
        """
        dice = torch.Generator(device=model.device)
        together = max(1, self.batch_size // samples)
        was_training = model.training
        model.eval()
        found: list[list[Rollout]] = []
        for start in range(0, len(prompts), together):
            batch = prompts[start : start + together]
            dice.manual_seed(seed + start)
            rows = generate(model, batch, samples, max_tokens, self.ends, self.pad, dice)
            found += [rows[i : i + samples] for i in range(0, len(rows), samples)]
        model.train(was_training)
        return found

    def close(self) -> None:
        """Nothing is held."""


def generate(
    model: Any,
    prompts: Sequence[list[int]],
    samples: int,
    max_tokens: int,
    ends: frozenset[int],
    pad: int,
    dice: torch.Generator | None = None,
    *,
    temperature: float = 1.0,
    deadline: float | None = None,
) -> list[Rollout]:
    """Sample `samples` answers to each prompt: (prompts * samples) rollouts, a prompt's together.

    The prompts are read once, whatever `samples` is; answers leave the batch once half of it has
    ended. Temperature 0 takes the likeliest token. `log_probabilities` are at `temperature`. At
    `deadline`, in seconds of the monotonic clock, answers stay as they are.
    """
    if not prompts:
        return []
    with torch.no_grad():
        writing = _Writing(model, prompts, samples, pad)
        for left in reversed(range(max_tokens)):
            chosen, log_chances = pick(writing.logits.float(), temperature, dice)
            writing.append(chosen, log_chances)
            late = deadline is not None and time.monotonic() > deadline
            if not left or late or not writing.go_on(chosen, ends):
                break
    return [
        Rollout(prompts[i // samples], tokens, writing.chances[i], tokens[-1] in ends)
        for i, tokens in enumerate(writing.tokens)
    ]


class _Writing:
    """Answers on the way: those that have not ended are the rows of the model's batch."""

    def __init__(self, model: Any, prompts: Sequence[list[int]], samples: int, pad: int) -> None:
        self.model = model
        ids, attention = left_padded(prompts, pad, model.device)  # (prompts, width)
        output = model(
            input_ids=ids,
            attention_mask=attention,
            position_ids=(attention.cumsum(1) - 1).clamp(min=0),
            use_cache=True,
            logits_to_keep=1,
        )
        self.cache = output.past_key_values
        self.cache.batch_repeat_interleave(samples)
        self.attention = attention.repeat_interleave(samples, 0)  # (rows, width)
        self.logits = output.logits[:, -1].repeat_interleave(samples, 0)  # (rows, vocab)
        self.alive = list(range(len(self.attention)))  # the answer that each row writes
        self.ended: set[int] = set()
        self.tokens: list[list[int]] = [[] for _ in self.alive]
        self.chances: list[list[float]] = [[] for _ in self.alive]

    def append(self, chosen: torch.Tensor, log_chances: torch.Tensor) -> None:
        """Add a token to each answer that has not ended; both are (rows,)."""
        for answer, token, chance in zip(
            self.alive, chosen.tolist(), log_chances.tolist(), strict=True
        ):
            if answer not in self.ended:
                self.tokens[answer].append(token)
                self.chances[answer].append(chance)

    def go_on(self, chosen: torch.Tensor, ends: frozenset[int]) -> bool:
        """Let the model read what was chosen, (rows,); False if all answers have ended."""
        self.ended |= {answer for answer in self.alive if self.tokens[answer][-1] in ends}
        going = [row for row, answer in enumerate(self.alive) if answer not in self.ended]
        if not going:
            return False
        if len(going) <= len(self.alive) // 2:
            kept = torch.tensor(going, device=chosen.device)
            self.cache.batch_select_indices(kept)
            self.attention, chosen = self.attention[kept], chosen[kept]
            self.alive = [self.alive[row] for row in going]
        seen = self.attention.new_ones(len(self.alive), 1)
        self.attention = torch.cat([self.attention, seen], dim=1)
        self.logits = self.model(
            input_ids=chosen[:, None],
            attention_mask=self.attention,
            position_ids=self.attention.sum(1, keepdim=True) - 1,
            past_key_values=self.cache,
            use_cache=True,
        ).logits[:, -1]
        return True


def pick(
    logits: torch.Tensor, temperature: float, dice: torch.Generator | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """A token of each row of logits, (rows, vocab), and its log-probability: both (rows,).

    Raises Diverged if they are no numbers: of those one in a row makes the whole row so.
    """
    log_chances = (logits / (temperature or 1.0)).log_softmax(-1)
    if log_chances[:, 0].isnan().any():
        raise Diverged("the probabilities of the next token are not finite")
    if temperature == 0:
        chosen = log_chances.argmax(-1)
    else:
        chosen = torch.multinomial(log_chances.exp(), 1, generator=dice).squeeze(1)
    return chosen, log_chances.gather(1, chosen[:, None]).squeeze(1)


def left_padded(
    prompts: Sequence[list[int]], pad: int, device: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both (prompts, width): all prompts end in the last column."""
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), pad)
    attention = torch.zeros((len(prompts), width), dtype=torch.long)
    for i, prompt in enumerate(prompts):
        ids[i, width - len(prompt) :] = torch.tensor(prompt)
        attention[i, width - len(prompt) :] = 1
    return ids.to(device), attention.to(device)


def mean_length(groups: Sequence[Sequence[Rollout]]) -> float:
    """Mean tokens of an answer."""
    lengths = [len(rollout.completion) for group in groups for rollout in group]
    return sum(lengths) / len(lengths)


def select_prompts(
    rows: Sequence[PromptRow], encoder: Encoder, max_tokens: int
) -> tuple[list[Prompt], dict[str, int]]:
    """The prompts that can be asked, each once, and how many were left out for which reason."""
    found: dict[str, Prompt] = {}
    skipped: Counter[str] = Counter()
    for row in rows:
        key = repr(row.prompt)
        try:
            if key in found:
                raise Skip("duplicate")
            tokens = encoder.question(row.prompt)
            if len(tokens) + max_tokens > encoder.limit:
                raise Skip("prompt_too_long")
            found[key] = Prompt(row.prompt, tokens)
        except Skip as reason:
            skipped[str(reason)] += 1
    return list(found.values()), dict(skipped)


def some(prompts: Sequence[Prompt], count: int, seed: int) -> list[Prompt]:
    """At most `count` of them, the same for the same seed."""
    return random.Random(seed).sample(list(prompts), min(count, len(prompts)))


def prompts_of_step(count: int, wanted: int, seed: int, step: int) -> list[int]:
    """Which of `count` prompts step `step` (from 0) asks: all of them once, in random order, before
    any again.

    A pure function of its arguments: a resumed run asks what the uninterrupted one would have.
    """
    first, last = step * wanted, (step + 1) * wanted
    orders: list[int] = []
    for epoch in range(first // count, (last - 1) // count + 1):
        order = list(range(count))
        random.Random(f"{seed}/{epoch}").shuffle(order)
        orders += order
    skipped = first - first // count * count
    return orders[skipped : skipped + wanted]
