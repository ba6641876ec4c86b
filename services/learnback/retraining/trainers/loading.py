"""Loading what is trained: the tokenizer, the model with an adapter or with all weights, and the
reference to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
)

from learnback.retraining.plan import Hyperparameters, RunPlan
from learnback.retraining.trainers.failures import BadData


def load_tokenizer(base_model: str) -> Any:
    """The base model's tokenizer, with a padding token. BadData if it has no chat template."""
    tokenizer = AutoTokenizer.from_pretrained(base_model)
    if tokenizer.chat_template is None:
        raise BadData(f"the base model {base_model!r} has no chat template")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def context_of(base_model: str) -> int:
    """Tokens that the base model can look at."""
    config = AutoConfig.from_pretrained(base_model).get_text_config()
    return int(getattr(config, "max_position_embeddings", None) or 2**31)


def generation_of(base_model: str) -> GenerationConfig:
    """How the base model writes, by its own file, else by its configuration."""
    try:
        return GenerationConfig.from_pretrained(base_model)
    except OSError:
        return GenerationConfig.from_model_config(AutoConfig.from_pretrained(base_model))


def end_tokens(generation: GenerationConfig, tokenizer: Any) -> frozenset[int]:
    """The tokens that end an answer: for some models, such as Gemma, more than the tokenizer's."""
    configured = generation.eos_token_id
    ends = configured if isinstance(configured, list) else [configured]
    return frozenset(end for end in (*ends, tokenizer.eos_token_id) if end is not None)


def load_model(plan: RunPlan) -> Any:
    """The policy that learns: the base model with a new adapter or the parent's, or all of it."""
    base = load_base(plan)
    if plan.parent_adapter is not None:
        model = PeftModel.from_pretrained(base, str(plan.parent_adapter), is_trainable=True)
        # the adapter knows its base by name, which PEFT would look up on the hub at every save
        model.peft_config["default"].base_model_name_or_path = plan.base_model
        return model
    if plan.hyperparameters.adaptation == "full":
        return base
    return get_peft_model(base, _lora(base, plan.hyperparameters, task_type="CAUSAL_LM"))


def load_scorer(plan: RunPlan) -> Any:
    """A reward model that learns: the base model with a head of one number, which starts at 0."""
    base = AutoModelForSequenceClassification.from_pretrained(
        plan.base_model, num_labels=1, dtype=precision(plan)
    )
    torch.nn.init.zeros_(base.score.weight)
    if plan.hyperparameters.adaptation == "full":
        return base
    return get_peft_model(
        base, _lora(base, plan.hyperparameters, task_type="SEQ_CLS", modules_to_save=["score"])
    )


def load_base(plan: RunPlan) -> Any:
    """The base model as it is."""
    return AutoModelForCausalLM.from_pretrained(plan.base_model, dtype=precision(plan))


def load_reference_copy(plan: RunPlan) -> Any | None:
    """The frozen base model beside full weights that learn; None beside an adapter, which can be
    switched off.
    """
    if plan.hyperparameters.adaptation == "lora":
        return None
    return load_base(plan).eval().requires_grad_(False)


@contextmanager
def reference(model: Any, copy: Any | None = None) -> Iterator[Any]:
    """The base model to ``model``: ``copy``, or the same with its adapter switched off."""
    if copy is not None:
        yield copy
    else:
        with model.disable_adapter():
            yield model


def precision(plan: RunPlan) -> torch.dtype:
    """bfloat16 on a GPU for weights that stay as they are; float32 for those that learn, and on a
    CPU (where bfloat16 without AVX512 is several times slower).
    """
    frozen = plan.hyperparameters.adaptation == "lora"
    return torch.bfloat16 if frozen and torch.cuda.is_available() else torch.float32


def _lora(base: Any, settings: Hyperparameters, **task: Any) -> LoraConfig:
    return LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        target_modules=list(settings.target_modules),
        layers_to_transform=_layers(base.config.num_hidden_layers, settings.top_layers),
        **task,
    )


def _layers(count: int, share: float) -> list[int] | None:
    """Indices of the upper ``share`` of ``count`` layers; None for all, which fits models of
    every architecture.
    """
    if share == 1:
        return None
    return list(range(count - max(1, round(count * share)), count))
