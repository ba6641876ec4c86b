"""vLLM's CPU operators give a token without adapter no adapter's weights, once they are mended."""

from __future__ import annotations

import pytest


@pytest.mark.engine
def test_tokens_without_adapter_get_no_adapters_weights() -> None:
    torch = pytest.importorskip("torch")
    lora_ops = pytest.importorskip("vllm.lora.ops.torch_ops.lora_ops")
    from learnback.inference.mending import _without_base_tokens

    weights = torch.stack([torch.ones(2, 3), torch.full((2, 3), 7.0)])  # the last slot is filled
    inputs, slots = torch.ones(3, 3), torch.tensor([0, -1, 1])
    plain, mended = torch.zeros(3, 2), torch.zeros(3, 2)
    lora_ops.bgmv_shrink(inputs, weights, plain, slots)
    assert plain[1].tolist() == [21.0, 21.0], "vLLM has mended it itself: drop our mending"
    _without_base_tokens(lora_ops.bgmv_shrink)(inputs, weights, mended, slots)
    assert mended.tolist() == [[3.0, 3.0], [0.0, 0.0], [21.0, 21.0]]
