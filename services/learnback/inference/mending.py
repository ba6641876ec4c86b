"""Keeps other adapters out of the base model's answers on vLLM's CPU backend.

vLLM 0.32 marks a token without adapter with the slot -1. Its CPU operators use that as an index, so
in a batch with adapters such a token gets the last slot's weights, as soon as that slot has ever
been filled (`vllm/lora/ops/torch_ops/lora_ops.py`). Here such tokens get none. A GPU's kernels skip
them by themselves.
"""

from __future__ import annotations

from typing import Any


def mend_mixed_batches() -> None:
    """Mend the operators in this process. Safe to repeat; nothing where there is no CPU backend."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    from vllm.lora.ops.torch_ops import lora_ops
    from vllm.lora.punica_wrapper import punica_cpu

    if getattr(lora_ops.bgmv_shrink, "is_mended", False):
        return
    mended = _without_base_tokens(lora_ops.bgmv_shrink)
    lora_ops.bgmv_shrink = mended  # `sgmv_shrink` looks it up there
    punica_cpu.bgmv_shrink = mended


def _without_base_tokens(shrink: Any) -> Any:
    """`bgmv_shrink` that leaves zeros for tokens without adapter, so nothing is added to them."""

    def bgmv_shrink(
        inputs: Any, weights: Any, output: Any, indices: Any, scaling: float = 1.0
    ) -> None:
        shrink(inputs, weights, output, indices, scaling)
        output[: len(indices)][indices < 0] = 0.0

    bgmv_shrink.is_mended = True  # type: ignore[attr-defined]
    return bgmv_shrink
