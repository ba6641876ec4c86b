"""Prompt strategies: versions that change the prompt instead of the weights. Pure.

A version of kind `prompt` has the configuration
`{"strategy", "system", "examples": [{"user", "assistant"}], "suffix"}`. A caller's own system
message stays and comes after ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from learnback.contracts.models import Endpoint

THINK = "Think step by step, then give the answer."
"""Zero-shot chain of thought (Kojima et al. 2022), for a strategy without words of its own."""


class Example(BaseModel):
    """One turn that shows how to answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user: str
    assistant: str


class Strategy(BaseModel):
    """What is put around a prompt."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    strategy: Literal["zero_shot", "few_shot", "chain_of_thought"]
    system: str = ""
    examples: tuple[Example, ...] = ()
    suffix: str = ""

    @model_validator(mode="after")
    def _has_what_its_name_says(self) -> Strategy:
        if self.strategy == "few_shot" and not self.examples:
            raise ValueError("few_shot needs examples")
        return self

    @property
    def instruction(self) -> str:
        """The text after the user's last words."""
        return self.suffix or (THINK if self.strategy == "chain_of_thought" else "")


def problem_with(config: Mapping[str, Any]) -> str | None:
    """Why a configuration is no strategy; None if it is one."""
    try:
        Strategy.model_validate(dict(config))
    except ValidationError as error:
        first = error.errors()[0]
        return f"its prompt strategy is invalid: {first['loc']}: {first['msg']}"
    return None


def apply(config: Mapping[str, Any], endpoint: Endpoint, request: dict[str, Any]) -> dict[str, Any]:
    """The fields of `request` that the strategy changes; none where the prompt is token ids."""
    strategy = Strategy.model_validate(dict(config))
    if endpoint == "chat.completions":
        return _chat(strategy, request.get("messages"))
    if endpoint == "responses":
        return _responses(strategy, request)
    return _completion(strategy, request.get("prompt"))


def _chat(strategy: Strategy, messages: Any) -> dict[str, Any]:
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        return {}
    own, rest = _leading_system(messages)
    parts = [text for text in (strategy.system, *own) if text]
    system = [{"role": "system", "content": "\n\n".join(parts)}] if parts else []
    return {"messages": [*system, *_turns(strategy), *_with_suffix(strategy, rest)]}


def _leading_system(messages: list[Any]) -> tuple[list[str], list[Any]]:
    """The texts of the system messages at the start, and what follows."""
    texts: list[str] = []
    for at, message in enumerate(messages):
        content = message.get("content")
        if message.get("role") not in {"system", "developer"} or not isinstance(content, str):
            return texts, messages[at:]
        texts.append(content)
    return texts, []


def _turns(strategy: Strategy) -> list[dict[str, str]]:
    return [
        {"role": role, "content": content}
        for example in strategy.examples
        for role, content in (("user", example.user), ("assistant", example.assistant))
    ]


def _with_suffix(strategy: Strategy, messages: list[Any]) -> list[Any]:
    """The messages with the instruction after the last one, if a user wrote it."""
    if not strategy.instruction or not messages or messages[-1].get("role") != "user":
        return messages
    last = dict(messages[-1])
    if isinstance(last.get("content"), str):
        last["content"] = f"{last['content']}\n\n{strategy.instruction}"
    elif isinstance(last.get("content"), list):
        kind = "input_text" if _is_responses_content(last["content"]) else "text"
        last["content"] = [*last["content"], {"type": kind, "text": strategy.instruction}]
    return [*messages[:-1], last]


def _is_responses_content(parts: list[Any]) -> bool:
    return any(isinstance(p, dict) and str(p.get("type")).startswith("input_") for p in parts)


def _responses(strategy: Strategy, request: dict[str, Any]) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    own = request.get("instructions")
    parts = [text for text in (strategy.system, own) if isinstance(text, str) and text]
    if parts:
        changed["instructions"] = "\n\n".join(parts)
    given = request.get("input")
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    if isinstance(given, list) and all(isinstance(item, dict) for item in given):
        changed["input"] = [*_turns(strategy), *_with_suffix(strategy, given)]
    return changed


def _completion(strategy: Strategy, prompt: Any) -> dict[str, Any]:
    if isinstance(prompt, str):
        return {"prompt": _text(strategy, prompt)}
    if isinstance(prompt, list) and prompt and all(isinstance(p, str) for p in prompt):
        return {"prompt": [_text(strategy, p) for p in prompt]}
    return {}


def _text(strategy: Strategy, prompt: str) -> str:
    shown = [f"{example.user}\n{example.assistant}" for example in strategy.examples]
    parts = (strategy.system, *shown, prompt, strategy.instruction)
    return "\n\n".join(part for part in parts if part)
