"""What a policy said at each step, for people who look for answers that please only the reward."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from learnback.retraining.plan import write_atomically
from learnback.retraining.trainers.rollouts import Prompt

ROLLOUT_DIRECTORY = "rollouts"


def said(
    prompts: Sequence[Prompt], texts: Sequence[Sequence[str]], scores: torch.Tensor
) -> list[dict[str, Any]]:
    """Each answer with what was paid for it; ``texts`` and ``scores`` are (prompts, samples)."""
    return [
        {"prompt": prompt.messages, "answer": text, "score": score if score == score else None}
        for prompt, given, row in zip(prompts, texts, scores.tolist(), strict=True)
        for text, score in zip(given, row, strict=True)
    ]


def keep(run: Path, metrics: Mapping[str, float], answers: Sequence[Mapping[str, Any]]) -> None:
    """Write those of one step into the folder of a run."""
    folder = run / ROLLOUT_DIRECTORY
    folder.mkdir(exist_ok=True)
    content = json.dumps({"metrics": metrics, "answers": answers}, ensure_ascii=False)
    write_atomically(folder / f"{int(metrics['step']):06}.json", content)
