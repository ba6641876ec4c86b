"""What an evaluation asks both versions: held-out prompts, probes and golden items, all alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from learnback.ledger.evaluation import HeldOutPrompt
from learnback.release.answers import answer_key
from learnback.release.engine import Answer, Sampling


@dataclass(frozen=True)
class Question:
    """One request; `key` names it among all. `extra`: fields such as `tools`. `tenant`: as whom it
    is asked; None: as ourselves."""

    key: str
    messages: Sequence[dict[str, Any]]
    sampling: Sampling
    extra: Mapping[str, Any] = field(default_factory=dict)
    tenant: str | None = None

    @property
    def cache_key(self) -> str:
        """Names the question with everything that its answer hangs on: a golden item keeps its
        name when its prompt changes, and probes may change with a version of ours."""
        asked = {"messages": list(self.messages), **self.sampling.as_parameters(), **self.extra}
        if self.tenant is not None:
            asked["tenant"] = self.tenant
        return answer_key(self.key, asked)


@dataclass
class Side:
    """One version's answers by the question's key."""

    version: str
    label: str
    answers: dict[str, Answer] = field(default_factory=dict)

    def given(self, keys: Iterable[str]) -> dict[str, Answer]:
        """The answers that there are: without those that failed."""
        found = {key: self.answers[key] for key in keys if key in self.answers}
        return {key: answer for key, answer in found.items() if answer.text is not None}

    def texts(self, keys: Iterable[str]) -> dict[str, str]:
        """What was answered."""
        return {key: answer.text or "" for key, answer in self.given(keys).items()}


def of_prompts(prompts: Sequence[HeldOutPrompt], sampling: Sampling) -> list[Question]:
    """Held-out prompts, asked as people ask."""
    return [Question(p.key, p.messages, sampling, tenant=p.tenant) for p in prompts]
