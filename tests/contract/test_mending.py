"""vLLM's CPU backend, once it is mended, mixes no adapters and lives on after a seeded request."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

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


def draw(generator: Any) -> int:
    """What vLLM's CPU sampler takes of a request's generator for one token."""
    import torch

    return int(torch.randint(0, 2**31, (1,), generator=generator, dtype=torch.long))


def runner_with(outputs: int, *, discarded: bool) -> Any:
    """A runner with one seeded request that has so many tokens, and has just drawn once more."""
    torch = pytest.importorskip("torch")
    request = SimpleNamespace(
        generator=torch.Generator(),
        sampling_params=SimpleNamespace(seed=7),
        output_token_ids=list(range(outputs)),
    )
    request.generator.manual_seed(7)
    for _ in range(outputs + 1):
        draw(request.generator)
    return SimpleNamespace(
        input_batch=SimpleNamespace(generators={0: request.generator}, req_ids=["a"]),
        discard_request_mask=SimpleNamespace(np=[discarded]),
        requests={"a": request},
    )


def vllms_bookkeeping(runner: Any) -> str:
    """As vLLM's: it sets the generators of discarded tokens back by four."""
    for index, generator in runner.input_batch.generators.items():
        if runner.discard_request_mask.np[index]:
            generator.set_offset(generator.get_offset() - 4)
    return "kept"


@pytest.fixture
def bookkeeping() -> Callable[[Any], str]:
    from learnback.inference.mending import _rewinding

    mended: Callable[[Any], str] = _rewinding(vllms_bookkeeping)
    return mended


def test_a_cpu_generator_has_no_offset_to_go_back_by() -> None:
    with pytest.raises(RuntimeError, match="offset"):  # if not: drop our mending
        vllms_bookkeeping(runner_with(0, discarded=True))


@pytest.mark.parametrize("outputs", [0, 1, 5])
def test_a_draw_that_is_thrown_away_is_drawn_again(
    outputs: int, bookkeeping: Callable[[Any], str]
) -> None:
    torch = pytest.importorskip("torch")
    expected = torch.Generator().manual_seed(7)
    draws = [draw(expected) for _ in range(outputs + 2)]
    kept, thrown = runner_with(outputs, discarded=False), runner_with(outputs, discarded=True)
    for runner, following in ((kept, draws[outputs + 1]), (thrown, draws[outputs])):
        generators = runner.input_batch.generators
        assert bookkeeping(runner) == "kept"
        assert runner.input_batch.generators is generators
        assert draw(generators[0]) == following
