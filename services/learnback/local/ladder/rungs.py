"""The rungs that change no weights: ways to ask, applied exactly as they are served."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from learnback.inference.examples import Prompter
from learnback.inference.prompts import prompted
from learnback.ledger.prompts import prompt_key
from learnback.local.ladder.labels import Messages, Rated
from learnback.local.ladder.tasks import Task
from learnback.models.example_bank import Entry, bank_of, entry_id, fingerprint, system_key
from learnback.models.retrieval import Index
from learnback.models.strategy import Example, Strategy

CONTEXT = 8192
"""Tokens: all examples are shown, whatever the model holds."""
SHOWN = 3
"""Examples in a few-shot prompt: more cost time with each answer."""
TENANT = "default"
WORDINGS = {
    "think step by step": "Let's think step by step.",
    "think, then answer": "Think step by step, then give the answer.",
    "work it out": "Let's work this out in a step by step way to be sure we have the right answer.",
}
"""Zero-shot chain of thought: Kojima et al. 2022 (arXiv:2205.11916); that of this platform; and the
wording that a search found best (Zhou et al. 2022, arXiv:2211.01910)."""
REASONED = (
    (
        "Why do we wear coats in winter?",
        "In winter the air is cold, and a body loses heat to cold air. A coat holds warm air close "
        "to the body. So we wear coats to stay warm.",
    ),
    (
        "Should I water a plant whose soil is wet?",
        "Roots need air as well as water. Wet soil has enough water and little air. So no, wait "
        "until it is dry.",
    ),
)
"""Chain of thought as Wei et al. 2022 (arXiv:2201.11903) show it: examples that reason first."""


@dataclass(frozen=True)
class Way:
    """A way to ask, as a version of kind `prompt` holds it; without a strategy as people ask."""

    name: str
    strategy: Strategy | None = None
    index: Index | None = None
    signals: int = 0
    """How many ratings it was made from."""

    def ask(self, messages: Messages) -> Messages:
        """What the model is asked in the place of `messages`."""
        if self.strategy is None:
            return messages
        return prompted(Prompter(self.strategy, self.index), messages, TENANT, CONTEXT)

    def ask_task(self, task: Task, solved: Sequence[Task]) -> Messages:
        """A made-up task, with solved ones of its kind for ways that show examples."""
        messages = [{"role": "user", "content": task.question}]
        if self.strategy is None or not (self.strategy.examples or self.index):
            return self.ask(messages)
        shown = tuple(
            Example(user=t.question, assistant=_solution(t, self.strategy)) for t in solved
        )
        strategy = self.strategy.model_copy(update={"examples": shown, "bank": ""})
        return Way(self.name, strategy).ask(messages)


def ways(best: Sequence[Rated], rated: int) -> list[Way]:
    """All of them. Few-shot shows those of `best` that are most like each prompt and liked most."""
    reasoned = tuple(Example(user=q, assistant=a) for q, a in REASONED)
    found = [
        Way("zero-shot"),
        Way("chain of thought", Strategy(strategy="chain_of_thought", examples=reasoned)),
        *(
            Way(name, Strategy(strategy="zero_shot_cot", suffix=wording))
            for name, wording in WORDINGS.items()
        ),
    ]
    if best:
        bank = bank_of([_entry(entry) for entry in best])
        few = Strategy(strategy="few_shot", bank=fingerprint(bank), max_examples=SHOWN)
        found.insert(1, Way("few-shot", few, Index(bank.entries), rated))
    return found


def _entry(rated: Rated) -> Entry:
    system = rated.messages[0]["content"] if rated.messages[0]["role"] == "system" else ""
    key = system_key(system)
    return Entry(
        id=entry_id(TENANT, key, rated.prompt, rated.answer),
        tenant=TENANT,
        system_key=key,
        prompt_key=prompt_key(rated.messages),
        user=rated.prompt,
        answer=rated.answer,
        quality=rated.quality,
    )


def _solution(task: Task, strategy: Strategy) -> str:
    if strategy.strategy != "chain_of_thought":
        return task.answer
    if task.kind == "reverse":
        letters = ", ".join(reversed(task.answer))
        return f"The letters are {letters}. In reverse order they spell {task.answer}."
    first, *_, last = task.answer.split()
    return f"The first word is {last} and the last one is {first}. Swapped: {task.answer}"
