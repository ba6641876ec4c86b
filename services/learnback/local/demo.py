"""`learnback demo`: the whole loop on this machine, with people whose preference nobody is told.

serve, feedback, score, train, evaluate, gate, hot swap, serve again; then the new version is
measured against the old one by the hidden preference, on prompts that nobody has asked before.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console

from learnback.contracts.models import FeedbackStatus, VersionState
from learnback.core.errors import BadRequest, LearnbackError
from learnback.local.access import access
from learnback.local.default_model import resolve_model
from learnback.local.demo_report import DemoResult, show, write_json
from learnback.local.platform import PROCESSES, Plan, Platform, platform
from learnback.local.show import say
from learnback.local.stages import Stage, Stages
from learnback.local.status import read_status
from learnback_simulator.http import Server, ServerRefused
from learnback_simulator.load import PreferenceError, load_preference
from learnback_simulator.measure import measure
from learnback_simulator.people import Person, crowd
from learnback_simulator.preferences import INDIFFERENCE, PREFERENCES, Score
from learnback_simulator.prompts import split_prompts
from learnback_simulator.session import Counts, chat_and_compare

REFUSED = 3
"""Exit code: everything worked and the gate said no."""

PEOPLE = 16
PROMPTS = 240
"""Asked by people; each is answered twice, and compared by whoever finds a difference."""
HELD_OUT = 0.25
"""Share of these prompts that the platform keeps out of training, to judge with."""
SYSTEM = "Answer in one short sentence."
ANSWERS_EACH = 2
MAX_TOKENS = 48
"""Per answer: a sentence or two. Two cores say 160 tokens a second."""
ERROR_RATE = 0.1
"""Of a comparison: InstructGPT's raters agree in 73 %, so one in ten is optimistic but honest."""
EVALUATION_PROMPTS = 64
POLICY = """\
gate:
  probes: 12  # a quarter: all of them take two minutes on two cores
  must_tell: 100%  # so few probes tell only much; 64 prompts tell 14%
  reward_hack: false  # no model beside the one that answers
  waive: [invalid_structured_increase]
"""
"""Of a machine with two cores; the report says what is not measured."""
MEASURED_PROMPTS = 80
"""Their 95 % interval is about 11 points to each side."""
CONCURRENCY = 24
POLL_S = 0.5
STALL_S = 900.0
"""A stage that does not move for so long never will: more than a large model takes to load."""
STAGES = 6


def list_preferences() -> list[str]:
    """A line for each preference that has a name."""
    return [
        f"{name:<10} {(score.__doc__ or 'No preference at all.').splitlines()[0]}"
        for name, score in PREFERENCES.items()
    ]


def run_demo(
    *,
    preference: str,
    seed: int,
    json_file: Path | None,
    home: Path | None,
    model: str | None,
    prompts: int | None,
) -> int:
    """Run the demo; 0 only if the new version passed the gate and serves, 3 if it was refused."""
    console = Console()
    try:
        score = load_preference(preference, seed)
    except PreferenceError as error:
        raise BadRequest(str(error), field="--preference") from error
    chosen = resolve_model(model, console)
    folder = home or Path(tempfile.mkdtemp(prefix="learnback-demo-"))
    result = DemoResult(preference=preference, seed=seed, model=chosen)
    demo = Demo(folder, score, result, console, prompts or PROMPTS)
    begin = time.monotonic()
    try:
        asyncio.run(demo.run())
    except BaseException as error:
        say(console, f"The logs are in {folder / 'logs'}.")
        shown = _leaf(error)
        if isinstance(shown, ServerRefused | PreferenceError | httpx.HTTPError):
            raise LearnbackError(str(shown)) from error
        raise
    result.total_seconds = round(time.monotonic() - begin, 1)
    if home is None:
        shutil.rmtree(folder, ignore_errors=True)
    show(result, console)
    if json_file is not None:
        write_json(result, json_file)
    return 0 if result.promoted else REFUSED


class Demo:
    """One run of the demo, stage by stage."""

    def __init__(
        self, home: Path, score: Score, result: DemoResult, console: Console, prompts: int
    ) -> None:
        self.home = home
        self.score = score
        self.result = result
        self.stages = Stages(console, STAGES)
        split = split_prompts(result.seed, held_out=MEASURED_PROMPTS)
        self.asked, self.kept = split.train[:prompts], split.held_out

    async def run(self) -> None:
        """The whole loop."""
        plan = Plan(self.home, self.result.model, port=None, environment=self._environment())
        try:
            async with AsyncExitStack() as stack:
                with self.stages.stage("start", "vLLM and the platform start") as stage:
                    running = platform(plan, lambda name, seconds: _starting(stage, name))
                    up = await stack.enter_async_context(running)
                await self._loop(up)
        finally:
            self.result.seconds = dict(self.stages.seconds)

    async def _loop(self, up: Platform) -> None:
        server = Server(up.url("inference"), up.url("feedback"), system=SYSTEM)
        async with httpx.AsyncClient(timeout=30, trust_env=False) as admin:
            try:
                await self._collect(up, server)
                version = await self._train(up, admin)
                await self._judge(up, admin, version)
                await self._swap(up, server, version)
                await self._measure(server)
            finally:
                await server.close()
                self.result.signals = (await _status(up)).feedback

    def _environment(self) -> dict[str, str]:
        """What differs from `learnback up`: one run, asked for, and sizes that fit two cores."""
        policy = self.home / "release.yaml"
        policy.parent.mkdir(parents=True, exist_ok=True)
        policy.write_text(POLICY, encoding="utf-8")
        return {
            "LEARNBACK_RELEASE_POLICY": str(policy),
            "LEARNBACK_HELD_OUT_SHARE": str(HELD_OUT),
            "LEARNBACK_RETRAINING_AUTOMATIC": "false",
            "LEARNBACK_RETRAINING_THREADS": str(os.cpu_count() or 2),
            "LEARNBACK_RELEASE_PROMPTS": str(EVALUATION_PROMPTS),
            "LEARNBACK_RELEASE_MAX_TOKENS": str(MAX_TOKENS),
            "LEARNBACK_RELEASE_CONCURRENCY": str(CONCURRENCY),
        }

    async def _collect(self, up: Platform, server: Server) -> None:
        """People ask, compare and say what they prefer."""
        people = self._people()
        with self.stages.stage("collect", "people chat and compare answers") as stage:

            def progress(counts: Counts) -> None:
                note = f"{counts.preferences} preferences, {counts.tokens} tokens"
                stage.advance(counts.asked, len(self.asked), note)

            await chat_and_compare(
                server,
                people,
                self.asked,
                max_tokens=MAX_TOKENS,
                answers_each=ANSWERS_EACH,
                concurrency=CONCURRENCY,
                seed=self.result.seed,
                progress=progress,
            )
            await _until(stage, lambda: _all_joined(up))
            self.result.old_version = (await _status(up)).stable

    def _people(self) -> list[Person]:
        return crowd(
            PEOPLE,
            self.score,
            seed=self.result.seed,
            error_rate=ERROR_RATE,
            indifference=INDIFFERENCE.get(self.result.preference, 0.0),
        )

    async def _train(self, up: Platform, admin: httpx.AsyncClient) -> str:
        """Ask for a run and follow it; the new version's name."""
        base = f"{up.url('retraining')}/admin/v1/runs"
        body = {"reason": "the demo asks", "seed": self.result.seed}
        with self.stages.stage("train", "a new version is trained") as stage:
            run = _checked(await admin.post(base, json=body))

            async def finished() -> str | None:
                found = _checked(await admin.get(f"{base}/{run['id']}"))
                _training(stage, found.get("progress") or {})
                if found["state"] in {"failed", "cancelled"}:
                    raise LearnbackError(f"The run {found['state']}: {found.get('reason')}")
                return found["version"] if found["state"] == "done" else None

            return str(await _until(stage, finished))

    async def _judge(self, up: Platform, admin: httpx.AsyncClient, version: str) -> None:
        """Wait for the gate's verdict."""
        self.result.new_version = version
        url = f"{up.url('release')}/admin/v1/releases/{version}"
        with self.stages.stage("judge", "release evaluates it on held-out prompts") as stage:

            async def judged() -> dict[str, Any] | None:
                found = _checked(await admin.get(url))
                _evaluating(stage, found.get("progress") or {})
                waiting = {VersionState.REGISTERED, VersionState.PASSED}
                return None if _of(found)["state"] in waiting else _of(found)

            found = await _until(stage, judged)
            report = found.get("gate_report") or {}
            self.result.gate = report
            self.result.verdict = str(report.get("verdict", found["state"]))
            self.result.reasons = [str(reason) for reason in report.get("reasons", [])]
            stage.note = self.result.verdict

    async def _swap(self, up: Platform, server: Server, version: str) -> None:
        """Wait until the new version answers under the public name, if it was promoted."""
        with self.stages.stage("swap", "traffic moves to what the gate decided") as stage:
            if (await _status(up)).stable != version:
                stage.note = "the old version stays"
                return

            async def serves() -> bool:
                (answer,) = await server.ask(
                    "learnback", "Say hello.", n=1, max_tokens=1, user="swap", store=False
                )
                return answer.version == version

            await _until(stage, serves)
            self.result.promoted = True
            stage.note = f"{version} answers"

    async def _measure(self, server: Server) -> None:
        """The new version against the old by the hidden preference, on prompts never asked."""
        old, new = self.result.old_version, self.result.new_version
        assert old is not None  # noqa: S101  # set by the stages before
        assert new is not None  # noqa: S101
        with self.stages.stage("measure", "old and new on prompts nobody asked yet") as stage:
            if not self.result.promoted:
                stage.note = "nothing to measure: a refused version answers nobody"
                return
            found = await measure(
                server,
                self.score,
                self.kept,
                old=old,
                new=new,
                max_tokens=MAX_TOKENS,
                concurrency=CONCURRENCY,
                seed=self.result.seed + 1,
                progress=lambda done, total: stage.advance(done, total, f"{done} answers"),
            )
        self.result.win_rate = round(found.rate, 4)
        self.result.win_rate_low = round(found.low, 4)
        self.result.win_rate_high = round(found.high, 4)
        self.result.held_out_prompts = len(found.comparisons)
        self.result.examples = [
            {"prompt": c.prompt, "old": c.old, "new": c.new} for c in found.comparisons[:6]
        ]


def _leaf(error: BaseException) -> BaseException:
    """The first error in a group of them."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _starting(stage: Stage, name: str) -> None:
    waited = (*PROCESSES[1:], PROCESSES[0])
    stage.advance(waited.index(name), len(waited), f"waiting for {name}")


def _training(stage: Stage, progress: dict[str, Any]) -> None:
    step, steps = progress.get("step", 0), progress.get("max_steps", 0)
    left = progress.get("eta_seconds")
    note = f"step {step} of {steps}" if steps else str(progress.get("state", "preparing"))
    if left is not None:
        note += f", {left:.0f} s left"
    if progress.get("loss") is not None:
        note += f", loss {progress['loss']:.3f}"
    stage.advance(step, steps or None, note)


def _evaluating(stage: Stage, progress: dict[str, Any]) -> None:
    done, total = progress.get("done", 0), progress.get("total", 0)
    left = progress.get("eta_s")
    note = str(progress.get("stage", "waiting"))
    if left is not None:
        note += f", {left:.0f} s left"
    stage.advance(done, total or None, note)


async def _status(up: Platform) -> Any:
    async with access(up.settings()) as opened:
        return await read_status(opened)


async def _all_joined(up: Platform) -> bool:
    status = await _status(up)
    waiting = status.feedback.get(FeedbackStatus.PENDING_TARGET, 0)
    recorded = all(q.lag == 0 and q.pending == 0 for q in status.queues if q.group == "feedback")
    return waiting == 0 and recorded


def _of(found: dict[str, Any]) -> dict[str, Any]:
    """The version in a release's story."""
    inner = found.get("version")
    return inner if isinstance(inner, dict) else found


def _checked(answer: httpx.Response) -> dict[str, Any]:
    if answer.is_error:
        raise LearnbackError(f"{answer.url} answered {answer.status_code}: {answer.text[:500]}")
    return dict(answer.json())


async def _until(stage: Stage, look: Callable[[], Any]) -> Any:
    """The first truthy answer of `look`; LearnbackError once the stage has not moved for long."""
    while not (found := await look()):
        if stage.still > STALL_S:
            note = f" It last said: {stage.note}." if stage.note else ""
            raise LearnbackError(
                f"Nothing has moved for {stage.still:.0f} s in the stage {stage.name!r}.{note} "
                "The logs of the processes say why."
            )
        await asyncio.sleep(POLL_S)  # other processes decide, over HTTP
    return found
