"""A tiny model that gives one of two answers, equally often: something that rewards can move.

From random weights no answer is ever liked, and nothing is learned.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tests.tiny_model import BAD, GOOD

from learnback.models.linear_reward import Pair, fit
from learnback.models.tiny import make_tiny_llama
from learnback.retraining.plan import PLAN_FILE, TRAIN_FILE, RlooHyperparameters, RunPlan
from learnback.retraining.trainers.held_out_judge import JUDGE_FILE

STEPS = 120
PROMPTS = pa.schema([("prompt", pa.string()), ("feedback_id", pa.string())])


def question(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"question {number}"}]


def make_taught_model(folder: Path) -> Path:
    """Teach the random Llama all weights: whatever is asked, GOOD or BAD, a coin decides."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tiny = make_tiny_llama(folder / "tiny", seed=0)
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    rows = []
    for number in range(8):
        prompt = tokenizer.apply_chat_template(
            question(number), tokenize=False, add_generation_prompt=True
        )
        asked = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        for answer in (GOOD, BAD):
            said = tokenizer(answer, add_special_tokens=False)["input_ids"]
            rows.append((asked, [*said, tokenizer.eos_token_id]))
    width = max(len(asked) + len(said) for asked, said in rows)
    ids = torch.full((len(rows), width), tokenizer.pad_token_id)
    labels = torch.full((len(rows), width), -100)
    for i, (asked, said) in enumerate(rows):
        ids[i, : len(asked) + len(said)] = torch.tensor(asked + said)
        labels[i, len(asked) : len(asked) + len(said)] = torch.tensor(said)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    for _ in range(STEPS):
        optimizer.zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
    target = folder / "taught"
    shutil.copytree(tiny, target)
    model.save_pretrained(target)
    return target


def preferences(count: int, *, flipped: bool = False) -> list[dict[str, Any]]:
    """Rows of the shape `pairs`: GOOD was preferred, or BAD if flipped."""
    chosen, rejected = (BAD, GOOD) if flipped else (GOOD, BAD)
    return [
        {
            "feedback_id": f"f{i}",
            "prompt": json.dumps(question(i)),
            "chosen": chosen,
            "rejected": rejected,
            "margin": 1.0,
        }
        for i in range(count)
    ]


def prompts(count: int) -> list[dict[str, Any]]:
    """Rows of the shape `prompts`."""
    return [{"prompt": json.dumps(question(i)), "feedback_id": ""} for i in range(count)]


def save_reward_model(folder: Path, *, flipped: bool = False) -> Path:
    """A linear reward model of these preferences."""
    pairs = [
        Pair(tuple(json.loads(row["prompt"])), row["chosen"], row["rejected"])
        for row in preferences(30, flipped=flipped)
    ]
    fit(pairs, l2=1.0, word_scale=0.4).save(folder)
    return folder


def write_rloo_run(
    folder: Path,
    base_model: Path,
    reward_model: Path,
    *,
    judge_flipped: bool | None = False,
    asked: list[dict[str, Any]] | None = None,
    seed: int = 0,
    **changes: Any,
) -> Path:
    """A run that is ready to start; `judge_flipped` None: there is no held-out judge; `asked` are
    rows of the shape `prompts`.
    """
    folder.mkdir(parents=True)
    rows = prompts(8) if asked is None else asked
    pq.write_table(pa.Table.from_pylist(rows, schema=PROMPTS), folder / TRAIN_FILE)
    if judge_flipped is not None:
        judged = preferences(24, flipped=judge_flipped)
        pq.write_table(pa.Table.from_pylist(judged), folder / JUDGE_FILE)
    settings: dict[str, Any] = {
        "max_steps": 12,
        "prompts_per_step": 4,
        "rollouts": 4,
        "batch_size": 16,
        "learning_rate": 1e-2,
        "lora_rank": 4,
        "lora_alpha": 8,
        "top_layers": 1.0,
        "max_new_tokens": 24,
        "checkpoint_every": 4,
        "evaluation_prompts": 8,
        "beta": 0.05,
        "kl_target": 3.0,
    }
    plan = RunPlan(
        run_id=folder.name,
        method="rloo",
        base_model=str(base_model),
        reward_model=reward_model,
        dataset=folder,
        seed=seed,
        hyperparameters=RlooHyperparameters.model_validate(settings | changes),
    )
    (folder / PLAN_FILE).write_text(plan.model_dump_json())
    return folder


def liked(texts: list[str]) -> float:
    """The true objective: the share of answers that begin as GOOD does."""
    return sum(text.startswith(GOOD.split()[0]) for text in texts) / len(texts)


def said(folder: Path, step: int) -> list[str]:
    """What the policy of a run answered at a step."""
    found = json.loads((folder / "rollouts" / f"{step:06}.json").read_text())
    return [entry["answer"] for entry in found["answers"]]
