"""The two that are compared: our job, and TRL's trainer as its documentation shows it."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl import (
    DPOConfig,
    DPOTrainer,
    KTOConfig,
    KTOTrainer,
    RewardConfig,
    RewardTrainer,
    RLOOConfig,
    RLOOTrainer,
    SFTConfig,
    SFTTrainer,
)

from learnback.contracts.models import PromptMessages
from learnback.models import reward
from learnback.models.linear_reward import LinearRewardModel, Pair, fit
from learnback.retraining import job
from learnback.retraining.plan import (
    HYPERPARAMETERS,
    PLAN_FILE,
    RESULT_FILE,
    TRAIN_FILE,
    ExitCode,
    Hyperparameters,
    Method,
    RunPlan,
    read_plan,
)
from learnback.retraining.trainers.loading import _layers

REWARD_DIRECTORY = "reward_model"
ANSWERS = 4
"""To each prompt of a policy."""
POLICY = {
    "rollouts": ANSWERS,
    "max_new_tokens": 48,
    "kl_target": None,
    "kl_stop": 1e9,
    "length_stop": 1e9,
    "evaluation_prompts": 1,
}
"""The same work for both: no run ends early, and what ours asks beside its steps is not timed."""
SPEED_FILE = "speed.json"
TEXT = "the a model answers people with care and learns what they like from all that is said"
WORDS = tuple(TEXT.split())
Row = dict[str, Any]


def write_run(folder: Path, model: str, method: Method, steps: int, batch: int) -> None:
    """A plan and its dataset: made-up chats of 20 to 60 words, the same for the same sizes."""
    chance = random.Random(0)
    folder.mkdir(parents=True)
    rows = [_row(chance, method, i) for i in range(steps * batch)]
    pq.write_table(pa.Table.from_pylist(rows), folder / TRAIN_FILE)
    settings = {"max_steps": steps, "batch_size": batch, "max_length": 512, "top_layers": 1.0}
    if method == "rloo":
        settings |= {"prompts_per_step": batch, "batch_size": batch * ANSWERS} | POLICY
        _liking_words().save(folder / REWARD_DIRECTORY)
    plan = RunPlan(
        run_id=folder.name,
        method=method,
        base_model=model,
        dataset=folder,
        reward_model=folder / REWARD_DIRECTORY if method == "rloo" else None,
        hyperparameters=HYPERPARAMETERS[method].model_validate(settings),
    )
    (folder / PLAN_FILE).write_text(plan.model_dump_json())


def _liking_words() -> LinearRewardModel:
    """A reward that both policies are paid by."""
    prompt: PromptMessages = ({"role": "user", "content": "Hello?"},)
    return fit([Pair(prompt, f"{word} {word}", str(i)) for i, word in enumerate(WORDS)])


def _row(chance: random.Random, method: Method, i: int) -> Row:
    def words() -> str:
        return " ".join(chance.choices(WORDS, k=chance.randint(20, 60)))

    prompt = json.dumps([{"role": "user", "content": f"{i} {words()}"}])
    row: Row = {"feedback_id": f"f{i}", "prompt": prompt}
    if method == "rloo":
        return row
    if method in ("dpo", "reward_model"):
        return {**row, "chosen": words(), "rejected": words()}
    return {**row, "completion": words(), **({"label": i % 2 == 0} if method == "kto" else {})}


def ours(folder: Path) -> None:
    """Our job, as its launcher starts it."""
    code = job.main([str(folder)])
    assert code == ExitCode.DONE, (folder / "progress.json").read_text()
    result = json.loads((folder / RESULT_FILE).read_text())
    _note(folder, result["train_seconds"])


def bare(folder: Path) -> None:
    """TRL's trainer with the same settings, checkpoints too, and nothing else."""
    plan = read_plan(folder)
    settings = plan.hyperparameters
    tokenizer = AutoTokenizer.from_pretrained(plan.base_model)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    trainer = BARE[plan.method](plan, settings, tokenizer, conversations(folder))
    output = trainer.train()
    trainer.save_model(str(folder / "adapter"))
    _note(folder, output.metrics["train_runtime"])


def _note(folder: Path, seconds: float) -> None:
    settings = read_plan(folder).hyperparameters
    samples = (settings.max_steps or 0) * settings.batch_size  # of a policy: answers
    (folder / SPEED_FILE).write_text(json.dumps({"samples_per_s": samples / seconds}))


def conversations(folder: Path) -> Dataset:
    """The rows of a run as TRL takes them."""
    rows = pq.read_table(folder / TRAIN_FILE).to_pylist()
    for row in rows:
        row.pop("feedback_id")
        row["prompt"] = json.loads(row["prompt"])
        for name in {"chosen", "rejected", "completion"} & set(row):
            row[name] = [{"role": "assistant", "content": row[name]}]
    return Dataset.from_list(rows)


def _dpo(plan: RunPlan, settings: Any, tokenizer: Any, rows: Dataset) -> Any:
    own = {"beta": settings.beta, "loss_type": [settings.loss]}
    if settings.sft_weight:
        own |= {"loss_type": [settings.loss, "sft"], "loss_weights": [1.0, settings.sft_weight]}
    return DPOTrainer(
        **_policy(plan, settings, tokenizer, rows), args=_arguments(DPOConfig, plan, **own)
    )


def _sft(plan: RunPlan, settings: Any, tokenizer: Any, rows: Dataset) -> Any:
    return SFTTrainer(**_policy(plan, settings, tokenizer, rows), args=_arguments(SFTConfig, plan))


def _kto(plan: RunPlan, settings: Any, tokenizer: Any, rows: Dataset) -> Any:
    own = {"beta": settings.beta}
    return KTOTrainer(
        **_policy(plan, settings, tokenizer, rows), args=_arguments(KTOConfig, plan, **own)
    )


def _reward(plan: RunPlan, settings: Any, tokenizer: Any, rows: Dataset) -> Any:
    model = AutoModelForSequenceClassification.from_pretrained(
        plan.base_model, num_labels=1, dtype=torch.float32
    )
    return RewardTrainer(
        model=model,
        args=_arguments(RewardConfig, plan, center_rewards_coefficient=settings.centering),
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=_lora(model, settings, task_type="SEQ_CLS", modules_to_save=["score"]),
    )


def _rloo(plan: RunPlan, settings: Any, tokenizer: Any, rows: Dataset) -> Any:
    judge = reward.load(plan.dataset / REWARD_DIRECTORY)

    def paid(prompts: list[Any], completions: list[Any], **_: Any) -> list[float | None]:
        asked = zip(prompts, completions, strict=True)
        items = [(tuple(prompt), said[0]["content"]) for prompt, said in asked]
        return [scored.score for scored in judge.score_batch(items)]

    own = {
        "beta": settings.beta,
        "num_generations": settings.rollouts,
        "max_completion_length": settings.max_new_tokens,
        "temperature": 1.0,
        "top_k": 0,
    }
    return RLOOTrainer(
        **_policy(plan, settings, tokenizer, rows),
        reward_funcs=paid,
        args=_arguments(RLOOConfig, plan, **own),
    )


BARE: dict[Method, Callable[..., Any]] = {
    "dpo": _dpo,
    "sft": _sft,
    "kto": _kto,
    "reward_model": _reward,
    "rloo": _rloo,
}


def _policy(
    plan: RunPlan, settings: Hyperparameters, tokenizer: Any, rows: Dataset
) -> dict[str, Any]:
    model = AutoModelForCausalLM.from_pretrained(plan.base_model, dtype=torch.float32)
    return {
        "model": model,
        "train_dataset": rows,
        "processing_class": tokenizer,
        "peft_config": _lora(model, settings, task_type="CAUSAL_LM"),
    }


def _lora(model: Any, settings: Hyperparameters, **task: Any) -> LoraConfig:
    return LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        target_modules=list(settings.target_modules),
        layers_to_transform=_layers(model.config.num_hidden_layers, settings.top_layers),
        **task,
    )


def _arguments(kind: Any, plan: RunPlan, **own: Any) -> Any:
    settings = plan.hyperparameters
    return kind(
        output_dir=str(plan.dataset / "checkpoints"),
        learning_rate=settings.learning_rate,
        max_steps=settings.max_steps,
        per_device_train_batch_size=settings.batch_size,
        gradient_checkpointing=settings.gradient_checkpointing,
        bf16=torch.cuda.is_available(),
        use_cpu=not torch.cuda.is_available(),
        save_steps=settings.checkpoint_every,
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        **({} if plan.method == "rloo" else {"max_length": settings.max_length}),
        **own,
    )


VARIANTS: dict[str, Callable[[Path], None]] = {"ours": ours, "bare": bare}


def in_a_child(name: str, folder: Path) -> tuple[float, float]:
    """Samples per second and peak memory in MiB of one run, in a process forked from this one,
    which has imported and computes nothing.
    """
    process = os.fork()
    if not process:
        log = os.open(str(folder.with_suffix(".log")), os.O_WRONLY | os.O_CREAT)
        os.dup2(log, 1)
        os.dup2(log, 2)
        code = 1
        try:
            VARIANTS[name](folder)
            code = 0
        finally:
            os._exit(code)
    _, status, usage = os.wait4(process, 0)
    if status:
        raise RuntimeError(folder.with_suffix(".log").read_text(errors="replace")[-4000:])
    speed = json.loads((folder / SPEED_FILE).read_text())
    return float(speed["samples_per_s"]), usage.ru_maxrss / 1024
