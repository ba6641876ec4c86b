"""Reward models of either kind: a batch of answers in, a score or an error for each out.

A folder holds a linear model (linear_reward.py) or a neural one: a PEFT adapter with a score head
on a base model, or all weights, and what `NeuralDescription` says of it. Adapters run in a vLLM
pooling engine where there is one (pooling_reward.py); else, and all weights always, a neural model
runs in this process (neural_reward.py).
"""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt, ValidationError

from learnback.contracts.models import PromptMessages
from learnback.models import linear_reward

if TYPE_CHECKING:
    from learnback.models.neural_reward import Bases
    from learnback.models.pooling_reward import PoolingEngine

DESCRIPTION_FILE = linear_reward.DESCRIPTION_FILE
MAX_COMPONENTS = 5
"""Reasons kept with a score: the features that moved it most."""

Kind = Literal["linear", "neural"]
Item = tuple[PromptMessages, str]
"""A prompt and an answer to it."""
PROBE: Item = (({"role": "user", "content": "Hello?"},), "Hello.")
"""What every model is tried on before anybody relies on it."""
NEAR = 0.05
"""How far a logit may be from that in training; bfloat16 takes a hundredth."""


@dataclass(frozen=True)
class Scored:
    """A calibrated score (`sigmoid(a - b)`: the chance that a is preferred), or why there is none.

    `components` are what moved it, where the model can say.
    """

    score: float | None
    error: str | None = None
    components: Mapping[str, float] = field(default_factory=dict)
    fault: bool = False
    """The model is broken; else an error says that the text is none for it."""


class RewardModel(Protocol):
    """Judges answers. It does not know its version: whoever opened it does."""

    @property
    def kind(self) -> Kind:
        """What it is made of."""

    def score_batch(self, items: Sequence[Item]) -> list[Scored]:
        """The verdicts in order, which do not depend on what else is in the batch.

        Blocks, so call it in a thread; several threads may. Raises Unavailable where the model is
        away: then none was judged, and the batch can be tried again.
        """


class NeuralDescription(BaseModel):
    """What lies beside a neural model's weights; its score is (logit - center) / temperature."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    kind: Literal["neural"] = "neural"
    base_model: str
    base_digest: str
    temperature: PositiveFloat
    center: float
    max_length: PositiveInt
    """Tokens of prompt and answer; a longer text has no score, and is never cut."""
    probe: float | None = None
    """The logit of `PROBE` when it was trained; None: not known, and not compared."""

    def check_probe(self, score: float) -> None:
        """Raises ValueError if `PROBE` gets another score here than in training: another template,
        another place to read the head at, another base."""
        logit = score * self.temperature + self.center
        if self.probe is not None and abs(logit - self.probe) > NEAR * max(1.0, abs(self.probe)):
            raise ValueError(
                f"it says {logit:.4g} of a text of which it said {self.probe:.4g} in training"
            )

    def calibrated(self, logit: float, tokens: int) -> Scored:
        """The score of a text of so many tokens whose head said `logit`."""
        if tokens > self.max_length:
            return Scored(None, f"the text has {tokens} tokens, the model takes {self.max_length}")
        if not math.isfinite(logit):
            return Scored(None, f"the model said {logit}", fault=True)
        return Scored((logit - self.center) / self.temperature)


@dataclass(frozen=True)
class LinearModel:
    """A linear model as a `RewardModel`."""

    model: linear_reward.LinearRewardModel
    kind: Literal["linear"] = "linear"

    def score_batch(self, items: Sequence[Item]) -> list[Scored]:
        """See `RewardModel`; components are the weightiest features."""
        return [self._score(prompt, answer) for prompt, answer in items]

    def _score(self, prompt: PromptMessages, answer: str) -> Scored:
        score, parts = self.model.explain(prompt, answer)
        weightiest = sorted(parts, key=lambda name: (-abs(parts[name]), name))[:MAX_COMPONENTS]
        shown = {name: round(parts[name], 6) for name in weightiest if parts[name]}
        return Scored(score, components=shown)


class RewardModels:
    """Opens reward models, and keeps what they share: base models in memory, an engine's client.

    `base` is where this process finds the base model, if not where the trainer found it.
    """

    def __init__(self, *, base: str = "", engine: PoolingEngine | None = None) -> None:
        self.base = base
        self.engine = engine
        self._bases: Bases | None = None

    def open(self, name: str, folder: Path) -> RewardModel:
        """The model in `folder`, whose version is `name`, after it has scored something.

        Blocks for as long as it takes to load. Raises ValueError if its files are no good or
        nothing here can run it, Unavailable if the engine is away.
        """
        model = self._open(name, folder)
        try:
            tried = model.score_batch([PROBE])[0]
        except (RuntimeError, TypeError) as error:  # no memory, or weights of odd shapes
            raise ValueError(f"it can't score: {error}") from error
        if tried.score is None or not math.isfinite(tried.score):
            raise ValueError(f"it gives no score: {tried.error or tried.score}")
        if model.kind == "neural":
            describe(folder).check_probe(tried.score)
        return model

    def close(self) -> None:
        """End the connections to the engine, if there is one."""
        if self.engine is not None:
            self.engine.close()

    def _open(self, name: str, folder: Path) -> RewardModel:
        if kind_of(folder) == "linear":
            return LinearModel(linear_reward.load(folder))
        description = describe(folder)
        if self.engine is not None and is_adapter(folder):
            return self.engine.open(name, folder, description)
        missing = [m for m in ("torch", "transformers", "peft") if not importlib.util.find_spec(m)]
        if missing:
            raise ValueError(
                f"it is a neural one, and neither {', '.join(missing)} nor an engine is here: "
                "install learnback[train], or start `learnback reward-engine` and name it in "
                "LEARNBACK_REWARD_ENGINE_URL"
            )
        from learnback.models import neural_reward

        self._bases = self._bases or neural_reward.Bases()
        return self._bases.open(folder, description, self.base)


def load(folder: Path, *, base: str = "") -> RewardModel:
    """The model in `folder`, in this process. Raises ValueError; see `RewardModels`."""
    return RewardModels(base=base).open(folder.name, folder)


def kind_of(folder: Path) -> Kind:
    """What a folder holds; `linear` where it does not say. Raises ValueError if unreadable."""
    try:
        said = json.loads((folder / DESCRIPTION_FILE).read_text(encoding="utf-8"))
        return "neural" if said.get("kind") == "neural" else "linear"
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"no reward model in {folder.name}: {error}") from error


def is_adapter(folder: Path) -> bool:
    """Whether a neural model is an adapter; else the folder holds all its weights."""
    return (folder / "adapter_config.json").is_file() or not (folder / "config.json").is_file()


def describe(folder: Path) -> NeuralDescription:
    """What a neural model's folder says of it. Raises ValueError."""
    try:
        return NeuralDescription.model_validate_json((folder / DESCRIPTION_FILE).read_bytes())
    except (OSError, ValidationError) as error:
        raise ValueError(f"no neural reward model in {folder.name}: {error}") from error
