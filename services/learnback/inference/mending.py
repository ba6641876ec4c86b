"""What vLLM 0.32's CPU backend does wrong and we can't serve with.

Mixed adapters: it marks a token without adapter with the slot -1. Its CPU operators use that as an
index, so in a batch with adapters such a token gets the last slot's weights, as soon as that slot
has ever been filled (`vllm/lora/ops/torch_ops/lora_ops.py`). Here such tokens get none. A GPU's
kernels skip them by themselves.

Seeds: a prompt that is read in parts draws a token after each part and throws all but the last
away, and vLLM then sets the request's generator back by an offset
(`vllm/v1/worker/gpu_model_runner.py`, `_bookkeeping_sync`). A CPU's generator has none, and the
engine ends for everybody. Here the generator starts anew and repeats the draws that counted.
"""

from __future__ import annotations

from typing import Any


def mend() -> None:
    """Mend vLLM in this process. Safe to repeat; does nothing where there is no CPU backend."""
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        _mend_mixed_batches()
        _mend_seeds()


def _mend_mixed_batches() -> None:
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


def _mend_seeds() -> None:
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    if not getattr(CPUModelRunner._bookkeeping_sync, "is_mended", False):
        CPUModelRunner._bookkeeping_sync = _rewinding(CPUModelRunner._bookkeeping_sync)


def _rewinding(bookkeeping: Any) -> Any:
    """A runner's `_bookkeeping_sync` that sets generators back without an offset."""

    def _bookkeeping_sync(runner: Any, *arguments: Any, **named: Any) -> Any:
        batch = runner.input_batch
        for index in list(batch.generators):
            if runner.discard_request_mask.np[index]:
                _rewind(runner.requests[batch.req_ids[index]])
        kept, batch.generators = batch.generators, {}  # vLLM's own rewinding finds none
        try:
            return bookkeeping(runner, *arguments, **named)
        finally:
            batch.generators = kept

    _bookkeeping_sync.is_mended = True  # type: ignore[attr-defined]
    return _bookkeeping_sync


def _rewind(request: Any) -> None:
    """The request's generator as it was after its last token: the CPU sampler draws once for each
    (`vllm/v1/sample/ops/topk_topp_sampler.py`, `forward_cpu`)."""
    import torch

    request.generator.manual_seed(request.sampling_params.seed)
    for _ in request.output_token_ids:
        torch.randint(0, 2**31, (1,), generator=request.generator, dtype=torch.long)
