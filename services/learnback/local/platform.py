"""The whole platform on one machine: Valkey, the ledger, and the five processes."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncConnection

from learnback.contracts.models import Scope
from learnback.core import valkey
from learnback.core.bus import create_groups
from learnback.core.redis import connect
from learnback.core.settings import CommonSettings, keys_required
from learnback.ledger.database import Database
from learnback.ledger.keys import DEFAULT_TENANT as TENANT
from learnback.ledger.keys import create_key, list_keys, revoke_key
from learnback.ledger.migrate import migrate
from learnback.local.home import Running, forget_running, lock, write_running
from learnback.local.supervisor import (
    Child,
    Supervisor,
    check_port,
    free_port,
    own_command,
)

PROCESSES = ("inference", "feedback", "reward", "retraining", "release")
"""In the order of their ports."""
VALKEY = "valkey"
START_S = 60.0
ENGINE_START_S = 1800.0
"""vLLM's own budget: a large model loads and compiles for minutes."""

StartProgress = Callable[[str, float], None]
"""Called with the process that is waited for and the seconds so far."""


@dataclass(frozen=True)
class Plan:
    """What to run: `port` None picks free ports; `environment` reaches every process."""

    home: Path
    model: str
    host: str = "127.0.0.1"
    port: int | None = 8000
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Platform:
    """A running platform."""

    plan: Plan
    running: Running
    supervisor: Supervisor
    api_key: str | None
    """A key with all scopes, if this platform asks for keys."""

    def url(self, process: str) -> str:
        """The base URL of a process."""
        return self.running.urls[process]

    def settings(self) -> CommonSettings:
        """Settings for reading this platform's ledger and streams."""
        return CommonSettings(
            home=self.plan.home, redis_url=self.running.redis_url, model=self.plan.model
        )


@asynccontextmanager
async def platform(
    plan: Plan, progress: StartProgress = lambda process, seconds: None
) -> AsyncIterator[Platform]:
    """Run everything for the length of the block; at its end drain and stop everything."""
    held = lock(plan.home)
    ports = _ports(plan)
    redis_port = free_port()
    supervisor = Supervisor()
    key: str | None = None
    try:
        running = Running(
            pid=os.getpid(),
            redis_url=f"redis://127.0.0.1:{redis_port}/0",
            urls={name: f"http://{_reach(plan.host)}:{port}" for name, port in ports.items()},
        )
        await _start_valkey(supervisor, plan, redis_port)
        key = await _prepare(plan, running)
        environment = _environment(plan, running, ports, key)
        await _start(supervisor, plan, running, environment, progress)
        write_running(plan.home, running)
        yield Platform(plan, running, supervisor, key)
    finally:
        forget_running(plan.home)
        # the engine first: what it served last is still recorded, scored and joined
        await supervisor.stop((*PROCESSES[:1], *PROCESSES[2:], "feedback", VALKEY))
        if key is not None:
            await _revoke_keys(plan)
        held.close()


def _ports(plan: Plan) -> dict[str, int]:
    if plan.port is None:
        return {name: free_port() for name in PROCESSES}
    ports = {name: plan.port + offset for offset, name in enumerate(PROCESSES)}
    for port in ports.values():
        check_port(plan.host, port)
    return ports


async def _start_valkey(supervisor: Supervisor, plan: Plan, port: int) -> None:
    async def answers() -> bool:
        redis = connect(f"redis://127.0.0.1:{port}/0")
        try:
            return bool(await redis.ping())
        except (RedisError, OSError):
            return False
        finally:
            await redis.aclose()

    await supervisor.start(
        Child(
            name=VALKEY,
            command=valkey.command(plan.home / "valkey", port),
            url="",
            environment={},
            log_path=plan.home / "logs" / "valkey.log",
            ready=answers,
        )
    )
    await supervisor.wait_ready(VALKEY, START_S)


async def _prepare(plan: Plan, running: Running) -> str | None:
    """Schema, streams, and a key for our own processes where keys are asked for."""
    common = CommonSettings(home=plan.home, redis_url=running.redis_url)
    database = Database(common.ledger_url)
    redis = connect(running.redis_url)
    try:
        await migrate(database)
        await create_groups(redis)
        if not keys_required(common, plan.host):
            return None
        async with database.write() as connection:
            await _revoke_own(connection, plan)  # of a start that was killed
            _, secret = await create_key(connection, TENANT, _key_name(plan), list(Scope))
        return secret
    finally:
        await redis.aclose()
        await database.close()


async def _revoke_keys(plan: Plan) -> None:
    """The key of this start is printed on a terminal: it ends with the platform."""
    database = Database(CommonSettings(home=plan.home).ledger_url)
    try:
        async with database.write() as connection:
            await _revoke_own(connection, plan)
    finally:
        await database.close()


async def _revoke_own(connection: AsyncConnection, plan: Plan) -> None:
    for known in await list_keys(connection, TENANT):
        if known.name == _key_name(plan) and known.revoked_at is None:
            await revoke_key(connection, known.id)


def _key_name(plan: Plan) -> str:
    """Of the key of `learnback up`: several machines may share a ledger."""
    return f"learnback up in {socket.gethostname()}:{plan.home.absolute()}"[:200]


def _environment(
    plan: Plan, running: Running, ports: dict[str, int], key: str | None
) -> dict[str, str]:
    """What every process is told; each reads its own part."""
    environment = {
        "LEARNBACK_HOME": str(plan.home.absolute()),
        "LEARNBACK_MODEL": plan.model,
        "LEARNBACK_REDIS_URL": running.redis_url,
        "LEARNBACK_RELEASE_INFERENCE_URL": running.urls["inference"],
    }
    if key is not None:
        environment["LEARNBACK_RELEASE_API_KEY"] = key
    for name, port in ports.items():
        environment[f"LEARNBACK_{name.upper()}_HOST"] = plan.host
        environment[f"LEARNBACK_{name.upper()}_PORT"] = str(port)
    return environment | plan.environment


async def _start(
    supervisor: Supervisor,
    plan: Plan,
    running: Running,
    environment: dict[str, str],
    progress: StartProgress,
) -> None:
    for name in PROCESSES:
        await supervisor.start(
            Child(
                name=name,
                command=own_command(name),
                url=running.urls[name],
                environment=environment,
                log_path=plan.home / "logs" / f"{name}.log",
            )
        )
    for name in (*PROCESSES[1:], PROCESSES[0]):  # the engine is the slowest
        budget = ENGINE_START_S if name == "inference" else START_S
        await supervisor.wait_ready(name, budget, progress=partial(progress, name))


def _reach(host: str) -> str:
    """The address under which this machine reaches a service listening on `host`."""
    if host in {"0.0.0.0", "::", ""}:  # compared, not bound
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def rotate_logs(home: Path) -> None:
    """Keep the logs of the last run as `logs.old`."""
    logs = home / "logs"
    if logs.exists():
        shutil.rmtree(home / "logs.old", ignore_errors=True)
        logs.rename(home / "logs.old")
