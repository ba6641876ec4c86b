"""How engines differ beyond the OpenAI API: loading an adapter, naming it, giving an answer its id.

SGLang takes an adapter as `base:adapter` and answers with the base for any other name; so what an
engine is must be known before an adapter is served.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Dialect:
    """What we say to one kind of engine."""

    name: str
    load_path: bytes
    """Where an adapter is loaded by its path."""
    adapter_model: str
    """The model name of a request for an adapter."""
    id_field: str | None
    """The field of a chat request that becomes the answer's id; None: it goes by X-Request-Id."""
    advice: str
    """How the engine is started so that it can load adapters."""


VLLM = Dialect(
    name="vllm",
    load_path=b"/v1/load_lora_adapter",
    adapter_model="{adapter}",
    id_field=None,
    advice="Start vLLM with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True.",
)
SGLANG = Dialect(
    name="sglang",
    load_path=b"/load_lora_adapter",
    adapter_model="{base}:{adapter}",
    id_field="rid",
    advice="Start SGLang with --enable-lora, --max-lora-rank and --lora-target-modules.",
)


def dialect_of(cards: Sequence[dict[str, Any]]) -> Dialect:
    """The dialect of an engine by its list of models; vLLM's unless it says otherwise."""
    return SGLANG if any(card.get("owned_by") == SGLANG.name for card in cards) else VLLM
