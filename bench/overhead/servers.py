"""Starts what is measured: servers with and without us, Valkey, a ledger with a base version."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
from bench.overhead.rounds import Variant
from bench.overhead.switch import CHAT, RAW
from redis import Redis

from learnback.contracts.streams import COMPLETIONS

ENGINE_READY_S = 300.0
STOP_S = 20.0
RECORD_S = 5.0
"""An answer that is not on the stream so long after the one before it is lost."""
MODEL = "learnback"
"""The name that all requests ask for: our public one, and one that the raw engine answers to."""


@dataclass
class Servers:
    """Processes that were started, and what stops them. `helpers` are those of ours."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    helpers: dict[str, psutil.Process] = field(default_factory=dict)
    variants: list[Variant] = field(default_factory=list)

    def start(self, name: str, command: list[str], port: int, *, ours: bool = True) -> None:
        """Start a variant in a process group of its own; its log is `<name>.log`."""
        environment = os.environ | self.environment
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        helpers = dict(self.helpers) if ours else {}
        root = psutil.Process(process.pid)
        self.variants.append(Variant(name, port, root, helpers, "bare" not in name and ours))

    def wait(self, body: bytes, timeout_s: float) -> None:
        """Until every variant answers `body`; RuntimeError with the log of one that does not."""
        deadline = time.monotonic() + timeout_s
        for variant in self.variants:
            while not _answers(variant.port, body):
                if not variant.root.is_running() or variant.root.status() == "zombie":
                    raise RuntimeError(f"{variant.name} ended: {self.log(variant.name)}")
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{variant.name} is not ready: {self.log(variant.name)}")
                time.sleep(0.2)

    def recorded(self, wanted: int) -> int:
        """How many answers were recorded, once all are there or no more come; removes them."""
        with Redis.from_url(self.environment["LEARNBACK_REDIS_URL"]) as redis:
            found, deadline = -1, time.monotonic() + RECORD_S
            while found < wanted and time.monotonic() < deadline:
                now = int(redis.xlen(COMPLETIONS.key))
                if now > found:
                    found, deadline = now, time.monotonic() + RECORD_S
                time.sleep(0.01)
            redis.delete(COMPLETIONS.key)
        return found

    def log(self, name: str) -> str:
        """The end of a variant's log."""
        return (self.folder / f"{name}.log").read_text(errors="replace")[-3000:]

    def stop(self) -> None:
        """End every process group that was started."""
        roots = {variant.root for variant in self.variants}
        for root in roots:
            _signal(root.pid, signal.SIGTERM)
        gone = time.monotonic() + STOP_S
        for root in roots:
            try:
                root.wait(max(0.1, gone - time.monotonic()))
            except psutil.TimeoutExpired:
                _signal(root.pid, signal.SIGKILL)


def _signal(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return


def _answers(port: int, body: bytes) -> bool:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        body,
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def platform(folder: Path, model: str) -> Iterator[Servers]:
    """A real Valkey and a migrated ledger that serves `model`; all is stopped at the end."""
    from learnback.core import valkey

    server = valkey.start(folder / "valkey")
    servers = Servers(folder)
    try:
        servers.environment = {
            "LEARNBACK_HOME": str(folder / "home"),
            "LEARNBACK_REDIS_URL": f"redis://127.0.0.1:{server.port}/0",
            "LEARNBACK_MODEL": model,
            "LEARNBACK_REQUIRE_KEYS": "false",
            "LEARNBACK_LOG_LEVEL": "WARNING",
        }
        servers.helpers = {"valkey": _listener(server.port)}
        asyncio.run(_prepare_ledger(folder / "home", model))
        yield servers
    finally:
        servers.stop()
        server.stop()


def _listener(port: int) -> psutil.Process:
    """The process of ours that listens on `port`."""
    for process in psutil.Process().children(recursive=True):
        if any(c.laddr.port == port for c in process.net_connections() if c.status == "LISTEN"):
            return process
    raise RuntimeError(f"no child listens on {port}")


async def _prepare_ledger(home: Path, model: str) -> None:
    from learnback.ledger.database import Database
    from learnback.ledger.migrate import migrate
    from learnback.registry import store
    from learnback.registry.artifacts import digest_model

    home.mkdir(parents=True, exist_ok=True)
    database = Database(f"sqlite:///{(home / 'ledger.db').absolute()}")
    await migrate(database)
    async with database.write() as connection:
        await store.ensure_base(connection, model, digest_model(model), actor="bench")
    await database.close()


MOCKS = ("raw", "middleware", "bare-proxy", "proxy")


def start_mocks(servers: Servers, names: Sequence[str] = MOCKS) -> None:
    """The mock engine alone, with the middleware, behind it and the proxy, behind the proxy."""
    mock = [sys.executable, "-m", "bench.overhead.mock"]
    raw = free_port()
    url = f"http://127.0.0.1:{raw}"
    servers.environment["LEARNBACK_INFERENCE_ENGINE_URLS"] = url
    servers.start("raw", [*mock, str(raw), "raw"], raw, ours=False)
    engine = servers.variants[0].root
    for name in (name for name in names if name != "raw"):
        port = free_port()
        command = [*mock, str(port), name]
        if "proxy" in name:
            command.append(url)
        servers.start(name, command, port)
        if "proxy" in name:
            servers.variants[-1].helpers["engine"] = engine
    servers.wait(request_body(12, 1, streamed=False), 60)


ENGINES = ("raw", "raw-again", "middleware")


def start_engine(servers: Servers, model: str, kv_cache_gib: int, names: Sequence[str]) -> None:
    """One vLLM, with a switch before the middleware: each variant is a path of the same server.

    Two servers differ by more than what is measured, even if they are equal; one has nothing that
    could differ. `raw-again` is `raw` under another name: their ratio is the method's noise.
    """
    from learnback.core.vllm import on_cpu
    from learnback.registry.artifacts import digest_model
    from learnback.registry.store import version_name

    base = version_name(model, "base", digest_model(model))
    # On the CPU vLLM's engine and its worker wait for each other by spinning, on every core that
    # there is: what is measured then is who gets a core. One process with one thread leaves the
    # other core to the API server, as a GPU does.
    executor = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
    servers.environment |= {"VLLM_CPU_KVCACHE_SPACE": str(kv_cache_gib), "OMP_NUM_THREADS": "1"}
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", model, "--served-model-name", base, MODEL]
    command += ["--host", "127.0.0.1", "--port", str(port), "--max-model-len", "512"]
    command += ["--dtype", "float32", "--max-num-seqs", "64", "--disable-uvicorn-access-log"]
    command += ["--distributed-executor-backend", executor] * on_cpu()
    servers.start("vllm", [*command, "--middleware", "bench.overhead.switch.Switch"], port)
    servers.wait(request_body(12, 1, streamed=False), ENGINE_READY_S)
    (up,) = servers.variants
    servers.variants = [
        replace(up, name=name, path=CHAT)
        if name == "middleware"
        else replace(up, name=name, path=RAW, records=False)
        for name in names
    ]


def request_body(words: int, max_tokens: int, *, streamed: bool) -> bytes:
    """A chat request; no sampling, and always the full number of tokens."""
    text = " ".join(("what is the answer to this question and how are you today",) * (words // 12))
    body: dict[str, object] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
    }
    if streamed:
        body["stream"] = True
    return json.dumps(body).encode()
