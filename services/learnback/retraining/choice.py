"""Which method a run takes, and why, in words. Pure.

The sizes come from what was measured on small models: 64 noisy pairs teach DPO little; about 500
pairs make a reward model, 2,000 carry a policy that is optimised against one; 153 held-out
comparisons tell 60% from 50%.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeGuard, get_args

from learnback.retraining.hyperparameters import Method

Chosen = Literal["sft", "dpo", "kto", "reward_model", "rloo", "prompt"]
"""Those that train weights, and `prompt`, which shows the best answers as examples."""
FEW_PAIRS = 64
"""Below this a run is a gamble; examples in the prompt often do as well."""
LABELS_PER_PAIR = 2
"""KTO on the two halves of n pairs does about as well as DPO on the n (Ethayarajh et al. 2024,
arXiv:2402.01306, sec. 4.1)."""
RAREST = 0.05
"""KTO bears one label in ten being of the rarer sort (there, sec. 4.3); half of that is the end."""
MIN_JUDGED = 150
"""Held-out pairs that a reward model must be judged by."""
MIN_ACCURACY = 0.65
"""Of a reward model that a policy may be optimised against."""


@dataclass(frozen=True)
class Sizes:
    """From when on there is a reward model, and a policy optimised against it."""

    pairs_for_reward_model: int = 500
    pairs_for_rloo: int = 2_000
    prompts_for_rloo: int = 200


@dataclass(frozen=True)
class Reward:
    """The reward model in use."""

    version: str
    neural: bool
    train_pairs: int
    judged: int
    """Held-out pairs."""
    accuracy: float | None

    @property
    def trusted(self) -> bool:
        """Whether a policy may be optimised against it."""
        return self.judged >= MIN_JUDGED and (self.accuracy or 0.0) >= MIN_ACCURACY


@dataclass(frozen=True)
class Available:
    """What there is to train on: rows of the training side, after all filters."""

    pairs: int = 0
    ties: int = 0
    completions: int = 0
    liked: int = 0
    disliked: int = 0
    single: int = 0
    """Labels of answers that somebody judged alone; the others come of comparisons."""
    prompts: int = 0
    reward: Reward | None = None
    policy_due: bool = False
    """The last run made a reward model by itself; no policy has been trained since."""

    @property
    def labels(self) -> int:
        """All labels."""
        return self.liked + self.disliked

    @property
    def two_sided(self) -> bool:
        """Whether both sorts of labels are there in numbers."""
        rarer = min(self.liked, self.disliked)
        return rarer > 0 and rarer >= RAREST * self.labels


@dataclass(frozen=True)
class Choice:
    """A method, or None where nothing can be trained; `others` says why not each of the rest."""

    method: Chosen | None
    reason: str
    others: dict[str, str] = field(default_factory=dict)


def choose(have: Available, sizes: Sizes, fixed: Chosen | None = None) -> Choice:
    """The method of the next run. `fixed` by an operator, it is that one, except that RLOO is
    preceded by the reward model that it needs."""
    policy, why = _policy(have, sizes)
    first = _reward_model_first(have, sizes, fixed)
    if first is not None:
        return Choice("reward_model", first, _others(have, sizes, "reward_model"))
    if fixed is not None:
        return Choice(fixed, "fixed by LEARNBACK_RETRAINING_METHOD", {})
    return Choice(policy, why, _others(have, sizes, policy))


def _reward_model_first(have: Available, sizes: Sizes, fixed: Chosen | None) -> str | None:
    """Why a reward model is due before the policy; None if it is not."""
    if have.policy_due or fixed not in (None, "rloo"):
        return None
    if fixed == "rloo" or have.pairs >= sizes.pairs_for_rloo:
        return f"{have.pairs} pairs: a reward model first, then RLOO on it"
    if fixed is None and have.pairs >= sizes.pairs_for_reward_model and _outgrown(have):
        known = have.reward.train_pairs if have.reward and have.reward.neural else 0
        return f"{have.pairs} pairs, and the neural reward model in use has seen {known}"
    return None


def _outgrown(have: Available) -> bool:
    """So that reward models are made ever more rarely as pairs come in."""
    return not (have.reward and have.reward.neural and 2 * have.reward.train_pairs > have.pairs)


def _policy(have: Available, sizes: Sizes) -> tuple[Chosen | None, str]:
    reward = have.reward
    if reward is not None and not _why_not_rloo(have, sizes):
        judge = f"{reward.version}, right on {reward.accuracy:.0%} of {reward.judged} pairs"
        return "rloo", f"{have.prompts} prompts, and a reward model to be trusted: {judge}"
    if have.two_sided and have.single > LABELS_PER_PAIR * have.pairs:
        return "kto", (
            f"{have.single} labels of single answers, worth more than {have.pairs} pairs "
            f"({LABELS_PER_PAIR} labels are worth a pair)"
        )
    if have.completions > have.pairs:
        return "sft", f"{have.completions} answers to imitate, and only {have.pairs} pairs"
    if have.pairs:
        few = " (so few that the method prompt may do as well)" if have.pairs < FEW_PAIRS else ""
        return "dpo", f"{have.pairs} pairs{few}"
    return None, _nothing(have)


def _nothing(have: Available) -> str:
    """Why no method can train."""
    if have.labels:
        return f"{_one_sided(have) or 'the labels are too one-sided'}; no answer is worth imitating"
    if have.ties:
        return f"all {have.ties} comparisons are ties: no answer is better than another"
    return "no usable preference, correction, thumb or rating is on record"


def refusal(method: Chosen, have: Available) -> str | None:
    """Why a run of `method`, asked for by name, can't be; None if it can."""
    wrong: dict[str, str | None] = {
        "dpo": None if have.pairs else "no pair is on record",
        "sft": None if have.completions else "no correction or top-rated answer is on record",
        "kto": _one_sided(have),
        "reward_model": None if have.pairs else "no pair is on record",
        "rloo": _no_reward(have),
        "prompt": None,
    }
    said = wrong[method]
    if said is None:
        return None
    ties = method in ("dpo", "reward_model") and have.ties
    more = f"; all {have.ties} comparisons are ties" if ties else ""
    return f"there is nothing to train on by {method}: {said}{more}"


def _one_sided(have: Available) -> str | None:
    if not have.labels:
        return "no label is on record"
    if min(have.liked, have.disliked) > 0:
        return None
    side = "liked" if have.liked else "disliked"
    return f"all {have.labels} answers with a label were {side}, and it takes both"


def _no_reward(have: Available) -> str | None:
    if have.reward is None:
        return "there is no reward model yet"
    return None if have.prompts else "no prompt with a stored answer is on record"


def _why_not_rloo(have: Available, sizes: Sizes) -> list[str]:
    """All that keeps a policy from being optimised against the reward model."""
    found = []
    if have.pairs < sizes.pairs_for_rloo:
        found.append(f"{have.pairs} of {sizes.pairs_for_rloo} pairs")
    if have.prompts < sizes.prompts_for_rloo:
        found.append(f"{have.prompts} of {sizes.prompts_for_rloo} prompts")
    if have.reward is None:
        found.append("no reward model")
    elif not have.reward.trusted:
        right = "unknown" if have.reward.accuracy is None else f"{have.reward.accuracy:.0%}"
        found.append(
            f"the reward model's accuracy is {right} on {have.reward.judged} held-out pairs; "
            f"it takes {MIN_ACCURACY:.0%} on {MIN_JUDGED}"
        )
    return found


def _others(have: Available, sizes: Sizes, chosen: Chosen | None) -> dict[str, str]:
    """Why not the methods that were not chosen."""
    found: dict[str, str] = {
        "sft": f"{have.completions} answers to imitate",
        "dpo": f"{have.pairs} pairs",
        "kto": f"{have.liked} liked and {have.disliked} disliked answers",
        "rloo": "; ".join(_why_not_rloo(have, sizes)) or "the reward model comes first",
        "reward_model": _why_no_reward_model(have, sizes),
        "prompt": "when asked for",
    }
    return {name: said for name, said in found.items() if name != chosen}


def _why_no_reward_model(have: Available, sizes: Sizes) -> str:
    if have.policy_due:
        return "the last run made one"
    if have.pairs < sizes.pairs_for_reward_model:
        return f"{have.pairs} of {sizes.pairs_for_reward_model} pairs"
    return "the one in use has seen most pairs"


def trains_weights(method: str | None) -> TypeGuard[Method]:
    """Whether a method is one whose job trains weights."""
    return method in get_args(Method)


def as_chosen(method: str) -> Chosen:
    """A method by its name, as a run's row has it. ValueError if there is none."""
    for known in get_args(Chosen):
        if known == method:
            chosen: Chosen = known
            return chosen
    raise ValueError(f"there is no method {method!r}")
