"""From signals in the ledger to a version that loads, with the real job, for every method but DPO,
which the loop's own tests take the whole way.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.learning import held_out, signal_rows, tell
from tests.retraining_world import MakeCycle, a_wish, make, step_until
from tests.tiny_model import small
from tests.warm_jobs import Jobs, WarmLauncher

from learnback.ledger import runs
from learnback.ledger.database import Database
from learnback.ledger.runs import RunState
from learnback.models import example_bank, reward
from learnback.registry import store
from learnback.registry.artifacts import digest_model
from learnback.retraining.cycle import Cycle

__all__ = ["make"]

pytestmark = [pytest.mark.timeout(180), pytest.mark.xdist_group("training")]

ALONE: dict[str, Any] = {"other_completion_id": None, "other_choice": None}
SETTINGS: dict[str, dict[str, object]] = {
    "sft": {"max_steps": 2},
    "kto": {"max_steps": 2},
    "reward_model": {"max_steps": 2},
    "rloo": {"max_steps": 2, "prompts_per_step": 2, "rollouts": 2, "max_new_tokens": 8},
}
START_S = 120.0
"""The server of the jobs may have to import everything first."""
Said = dict[str, list[str]]


@pytest.fixture
async def base(database: Database, tiny_model: Path) -> store.ModelVersion:
    async with database.write() as c:
        digest = digest_model(str(tiny_model))
        return await store.ensure_base(c, str(tiny_model), digest, actor="test")


@pytest.fixture
async def said(database: Database) -> Said:
    """Words of every kind, and some that no method can use or that say nothing new."""
    up, down = ({"kind": "thumbs", "value": value} for value in ("up", "down"))
    text = {"kind": "correction", "text": "a better answer"}
    gone = {"first": {"completion_id": "x"}, "second": {"text": "y"}, "preferred": "first"}
    return {
        "pairs": await tell(database, 20, "p"),
        "corrections": await tell(database, 12, "c", kind="correction", body=text, **ALONE),
        "up": await tell(database, 8, "u", kind="thumbs", body=up, **ALONE),
        "down": await tell(database, 8, "d", kind="thumbs", body=down, **ALONE),
        "wrong": await tell(database, 2, "w", other_choice=7, body=gone),
    }


TEACH = {
    "sft": ["corrections"],
    "kto": ["pairs", "corrections", "up", "down"],
    "reward_model": ["pairs", "corrections"],
    "prompt": ["pairs", "corrections", "up"],
}
"""What each method learns from, or is judged by."""


@pytest.mark.parametrize("method", TEACH)
async def test_signals_become_a_version_that_loads_and_each_says_what_became_of_it(
    method: str,
    said: Said,
    make: MakeCycle,
    base: store.ModelVersion,
    jobs: Jobs,
) -> None:
    cycle = make(automatic=False, job_command=[])
    cycle.launcher = WarmLauncher(jobs)
    plan = await cycle.plan(method)  # type: ignore[arg-type]
    version = await trained(cycle, method, base)

    found = await signal_rows(cycle.database)
    ends = Counter(row.status for row in found.values())
    assert ends["trained"] == plan.signals["trained"] == plan.new_signals
    assert ends["held_out"] == plan.signals["held_out"]
    assert ends["quarantined"] == plan.signals["no_such_answer"] == len(said["wrong"])
    assert sum(ends.values()) == sum(plan.signals.values()) == sum(map(len, said.values()))
    teach = [name for kind in TEACH[method] for name in said[kind]]
    learned = {name for name, row in found.items() if row.trained_version == version.name}
    assert learned == set(teach) - held_out(teach)
    assert learned == {name for name, row in found.items() if row.status == "trained"}
    await loads(cycle, version)


async def test_a_policy_is_paid_by_a_reward_model_and_takes_no_signal(
    said: Said, make: MakeCycle, base: store.ModelVersion, jobs: Jobs
) -> None:
    quick = make(automatic=False)  # its job is none, but the linear reward model beside it is one
    await trained(quick, "dpo", base)
    before = await signal_rows(quick.database)
    cycle = make(automatic=False, job_command=[])
    cycle.launcher = WarmLauncher(jobs)
    version = await trained(cycle, "rloo", base)

    assert await signal_rows(cycle.database) == before
    assert version.reward_model is not None
    assert version.metrics["kl"] >= 0
    assert len(list((cycle.folder_of(str(version.run_id)) / "rollouts").iterdir())) == 2
    await loads(cycle, version)


async def trained(cycle: Cycle, method: str, base: store.ModelVersion) -> store.ModelVersion:
    """The version of a run that is asked for by name."""
    config: dict[str, Any] = {}
    if method in SETTINGS:
        config = small(method, **SETTINGS[method]).model_dump(mode="json")  # type: ignore[arg-type]
    async with cycle.database.write() as c:
        wish = a_wish(base, id=f"run_{method}", method=method, config=config)
        await runs.create_run(c, wish)
    ended = RunState.DONE, RunState.FAILED
    run = await step_until(cycle, *ended, timeout_s=START_S)
    assert run.state is RunState.DONE, run.progress
    if method in SETTINGS:
        report = await cycle.registrar.report(run)
        assert "loss" in (report / "report.md").read_text()
    async with cycle.database.read() as c:
        return await store.get(c, str(run.version))


async def loads(cycle: Cycle, version: store.ModelVersion) -> None:
    """Whoever serves it finds weights that answer, a scorer that scores, or examples."""
    folder = await cycle.registrar.fetch(version.name)
    if version.kind == "prompt":
        assert example_bank.load(folder).entries
    elif version.kind == "reward_model":
        asked = ({"role": "user", "content": "hello"},), "thanks"
        assert reward.load(folder, base=version.base).score_batch([asked])[0].score is not None
    else:
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        model = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(version.base, dtype=torch.float32), folder
        )
        learned = [p for name, p in model.named_parameters() if "lora_B" in name]
        assert any(bool(p.any()) for p in learned), "the adapter has learned something"
        assert model(input_ids=torch.tensor([[1, 2, 3]])).logits.isfinite().all()
