"""Requests of all three endpoints as one kind of prompt, and the fields that we keep. Pure."""

from __future__ import annotations

from typing import Any

from learnback.contracts.models import Endpoint, PromptMessages
from learnback.core.ids import digest_text

PARAMETERS = frozenset(
    (
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "max_tokens",
        "max_completion_tokens",
        "max_output_tokens",
        "min_tokens",
        "n",
        "best_of",
        "stop",
        "stop_token_ids",
        "seed",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "logit_bias",
        "logprobs",
        "top_logprobs",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
        "structured_outputs",
        "text",
        "reasoning",
        "reasoning_effort",
        "include_reasoning",
        "ignore_eos",
        "echo",
        "suffix",
        "truncation",
        "chat_template_kwargs",
    )
)
"""What shapes an answer besides the prompt and the version."""


def messages_of(endpoint: Endpoint, request: dict[str, Any]) -> PromptMessages:
    """The prompt as chat messages; anything that is no prompt gives none."""
    if endpoint == "chat.completions":
        found = request.get("messages")
        messages = found if isinstance(found, list) else []
    elif endpoint == "completions":
        messages = _of_completion(request.get("prompt"))
    else:
        messages = _of_response(request)
    return tuple(_light(message) for message in messages if isinstance(message, dict))


def parameters_of(request: dict[str, Any]) -> dict[str, Any]:
    """The parameters as asked for."""
    return {name: value for name, value in request.items() if name in PARAMETERS}


def _of_completion(prompt: Any) -> list[dict[str, Any]]:
    """A text is what a user says; tokens and batches are kept as such, and no text is made up."""
    if isinstance(prompt, list) and len(prompt) == 1 and not isinstance(prompt[0], int):
        prompt = prompt[0]
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    if not isinstance(prompt, list) or not prompt:
        return []
    if all(isinstance(token, int) for token in prompt):
        return [{"role": "user", "content": None, "token_ids": prompt}]
    return [{"role": "user", "content": None, "batch": prompt}]


def _of_response(request: dict[str, Any]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if isinstance(request.get("instructions"), str):
        messages.append({"role": "system", "content": request["instructions"]})
    given = request.get("input")
    if isinstance(given, str):
        messages.append({"role": "user", "content": given})
    elif isinstance(given, list):
        messages += [_of_item(item) for item in given if isinstance(item, dict)]
    return messages


def _of_item(item: dict[str, Any]) -> dict[str, Any]:
    """An input item of the Responses API as a chat message."""
    kind = item.get("type", "message")
    if kind == "function_call":
        function = {"name": item.get("name"), "arguments": item.get("arguments")}
        call = {"id": item.get("call_id"), "type": "function", "function": function}
        return {"role": "assistant", "content": None, "tool_calls": [call]}
    if kind == "function_call_output":
        return {
            "role": "tool",
            "tool_call_id": item.get("call_id"),
            "content": _text_or_parts(item.get("output")),
        }
    if kind == "message":
        role = str(item.get("role") or "user")
        return {"role": role, "content": _text_or_parts(item.get("content"))}
    return {"role": "user", "content": [item]}


def _text_or_parts(content: Any) -> Any:
    """Parts that are all text as one text, since chat says it so."""
    if not isinstance(content, list):
        return content
    found = [part.get("text") if isinstance(part, dict) else None for part in content]
    texts = [text for text in found if isinstance(text, str)]
    return "".join(texts) if texts and len(texts) == len(content) else content


def _light(value: Any) -> Any:
    """The value with inline images and audio replaced by their digest: a ledger keeps words."""
    if isinstance(value, dict):
        return {key: _light(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_light(part) for part in value]
    if isinstance(value, str) and value.startswith("data:") and len(value) > 256:
        head = value[:64].partition(",")[0]
        return f"{head},sha256:{digest_text(value)}"
    return value
