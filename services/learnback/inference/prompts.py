"""Applies prompt strategies: versions that change the prompt instead of the weights. Pure.

A caller's own system text stays and comes after ours. Examples stand before the conversation, the
one most like the prompt next to it. Where a strategy would be in the way (tools, structured output,
a prompt that is to be echoed), it steps aside as far as it must, and says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from learnback.contracts.models import Endpoint
from learnback.inference.examples import (
    ASSUMED_CONTEXT,
    Applied,
    Fields,
    Prompter,
    Request,
    Shown,
    Skipped,
    choose,
    given,
    read,
    text_bytes,
    text_of,
)

SYSTEM_ROLES = frozenset(("system", "developer"))
TOOLS = ("tools", "functions")
STRUCTURED = (
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
)
ECHOES = ("echo", "suffix", "prompt_logprobs")
"""With these the answer shows the prompt, or the prompt is what stands around the answer."""


def apply(
    prompter: Prompter, endpoint: Endpoint, fields: Fields, tenant: str, context: int | None = None
) -> Applied:
    """What becomes of the request with these `fields`; `context` is the engine's, in tokens.

    Raises msgspec.DecodeError for a field that can't be read.
    """
    if any(given(fields, name) for name in ECHOES):
        return Applied(skipped=Skipped.ECHO)
    bare = _why_bare(fields)
    request = Request(prompter, fields, tenant, context or ASSUMED_CONTEXT, bare)
    if endpoint == "chat.completions":
        return _chat(request)
    if endpoint == "responses":
        return _responses(request)
    return _completion(request)


def prompted(
    prompter: Prompter, messages: Sequence[Mapping[str, Any]], tenant: str, context: int
) -> list[Any]:
    """A chat as an engine is asked it under a strategy: for those who ask an engine themselves."""
    fields = {"messages": msgspec.Raw(msgspec.json.encode(messages))}
    found = apply(prompter, "chat.completions", fields, tenant, context)
    return list(found.changed.get("messages", messages))


def _why_bare(fields: Fields) -> Skipped | None:
    if any(given(fields, name) for name in TOOLS):
        return Skipped.TOOLS
    return Skipped.STRUCTURED_OUTPUT if _structured(fields) else None


def _structured(fields: Fields) -> bool:
    if any(given(fields, name) for name in STRUCTURED):
        return True
    wanted, text = read(fields, "response_format"), read(fields, "text")
    if isinstance(text, dict):
        wanted = text.get("format") or wanted
    return isinstance(wanted, dict) and wanted.get("type") not in {None, "text"}


def _chat(request: Request) -> Applied:
    messages = request.read("messages")
    if not _is_conversation(messages):
        return Applied(skipped=Skipped.NO_PROMPT)
    leading, rest = _split(messages)
    own = [text_of(message.get("content")) for message in leading]
    shown = choose(request, own, rest, len(bytes(request.fields["messages"])))
    system = _system_messages(request.strategy.system, leading, own)
    changed = [*system, *_turns(shown), *_with_instruction(request.instruction, rest)]
    return request.applied({} if changed == messages else {"messages": changed}, [shown])


def _turns(shown: Shown) -> list[dict[str, str]]:
    return [
        {"role": role, "content": content}
        for user, assistant in shown.turns
        for role, content in (("user", user), ("assistant", assistant))
    ]


def _responses(request: Request) -> Applied:
    sent, instructions = request.read("input"), request.read("instructions")
    if isinstance(sent, str):
        sent = [{"role": "user", "content": sent}]
    if not _is_conversation(sent):
        return Applied(skipped=Skipped.NO_PROMPT)
    leading, rest = _split(sent)
    own: list[str | None] = [instructions] if isinstance(instructions, str) else []
    own += [text_of(item.get("content")) for item in leading]
    used = sum(len(bytes(request.fields.get(name, b""))) for name in ("input", "instructions"))
    shown = choose(request, own, rest, used)
    changed: dict[str, Any] = {}
    if request.strategy.system:
        parts = (request.strategy.system, instructions)
        changed["instructions"] = "\n\n".join(p for p in parts if isinstance(p, str) and p)
    items = [*leading, *_turns(shown), *_with_instruction(request.instruction, rest)]
    if items != sent:
        changed["input"] = items
    return request.applied(changed, [shown])


def _completion(request: Request) -> Applied:
    prompt = request.read("prompt")
    texts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
        return Applied(skipped=Skipped.NO_PROMPT)
    shown = [choose(request, [], [{"role": "user", "content": t}], text_bytes(t)) for t in texts]
    changed = [_text(request, one, text) for one, text in zip(shown, texts, strict=True)]
    if changed == texts:
        return request.applied({}, shown)
    return request.applied({"prompt": changed[0] if isinstance(prompt, str) else changed}, shown)


def _text(request: Request, shown: Shown, prompt: str) -> str:
    examples = [f"{user}\n{assistant}" for user, assistant in shown.turns]
    parts = (request.strategy.system, *examples, prompt, request.instruction)
    return "\n\n".join(part for part in parts if part)


def _is_conversation(messages: Any) -> bool:
    return (
        isinstance(messages, list)
        and bool(messages)
        and all(isinstance(message, dict) for message in messages)
    )


def _split(messages: list[Any]) -> tuple[list[Any], list[Any]]:
    """The system messages at the start, and what follows."""
    for at, message in enumerate(messages):
        if message.get("role") not in SYSTEM_ROLES:
            return messages[:at], messages[at:]
    return messages, []


def _system_messages(ours: str, leading: list[Any], own: list[str | None]) -> list[Any]:
    """Our system text before the caller's: in one message, since many templates take only one."""
    if not ours:
        return leading
    if None in own:
        return [{"role": "system", "content": ours}, *leading]
    text = "\n\n".join(part for part in (ours, *own) if part)
    return [{"role": "system", "content": text}]


def _with_instruction(instruction: str, messages: list[Any]) -> list[Any]:
    """The messages with the instruction after the last one, if a user wrote it."""
    if not instruction or not messages or messages[-1].get("role") != "user":
        return messages
    last = dict(messages[-1])
    if isinstance(last.get("content"), str):
        last["content"] = f"{last['content']}\n\n{instruction}"
    elif isinstance(last.get("content"), list):
        kind = "input_text" if _is_responses_content(last["content"]) else "text"
        last["content"] = [*last["content"], {"type": kind, "text": instruction}]
    return [*messages[:-1], last]


def _is_responses_content(parts: list[Any]) -> bool:
    return any(isinstance(p, dict) and str(p.get("type")).startswith("input_") for p in parts)
