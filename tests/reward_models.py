"""Neural reward models of the tiny base, as the trainer leaves them, made without training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.factories import a_version

from learnback.contracts.models import Alias, VersionKind
from learnback.ledger.database import Database
from learnback.models.reward import Item
from learnback.registry import store
from learnback.registry.artifacts import ArtifactStore, digest_folder, digest_model

TEMPERATURE, CENTER = 2.0, 0.25


def make_linear(folder: Path, *, better: str, worse: str) -> Path:
    """A linear model that was told twenty times which of two texts is better."""
    from learnback.models.linear_reward import Pair, fit

    pairs = [Pair(({"role": "user", "content": f"q{i}"},), better, worse) for i in range(20)]
    fit(pairs).save(folder)
    return folder


def make_neural(folder: Path, base: Path, seed: int, **changes: Any) -> Path:
    """A random adapter with a score head; `changes` go into its description."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
        config = LoraConfig(
            task_type="SEQ_CLS",
            r=4 + seed % 2,
            target_modules=["q_proj", "v_proj", "down_proj"],
            modules_to_save=["score"],
            init_lora_weights=False,
        )
        get_peft_model(model, config).save_pretrained(folder)
    description = {
        "kind": "neural",
        "base_model": str(base),
        "base_digest": digest_model(str(base)),
        "temperature": TEMPERATURE,
        "center": CENTER,
        "max_length": 200,
    }
    (folder / "reward.json").write_text(json.dumps(description | changes))
    return folder


def bare_scores(folder: Path, base: Path, items: list[Item]) -> list[float]:
    """What plain transformers and PEFT say, one text at a time, calibrated by hand."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    model = PeftModel.from_pretrained(model, folder).eval()
    found = []
    for prompt, answer in items:
        messages = [*prompt, {"role": "assistant", "content": answer}]
        ids = tokenizer.apply_chat_template(messages, return_dict=True, return_tensors="pt")
        with torch.no_grad():
            found.append((float(model(**ids).logits[0, 0]) - CENTER) / TEMPERATURE)
    return found


async def publish(database: Database, home: Path, folder: Path) -> str:
    """Store and register a reward model, and let the alias name it; its version."""
    digest = digest_folder(folder)
    name = store.version_name("tiny", "reward", digest)
    ArtifactStore(f"file://{home}/artifacts").put(folder, name)
    version = a_version(name, kind=VersionKind.REWARD_MODEL, artifact=name, artifact_digest=digest)
    async with database.write() as c:
        await store.register(c, version)
        revision = (await store.alias_state(c, Alias.REWARD)).revision
        await store.move_alias(
            c, Alias.REWARD, name, expected_revision=revision, actor="test", reason="test"
        )
    return name
