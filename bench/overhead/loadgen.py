"""Runs the load generator: the C one, compiled on first use, or a Python one if there is no cc."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

SOURCE = Path(__file__).with_name("loadgen.c")
TIMEOUT_S = 600


@dataclass(frozen=True)
class Load:
    """What one run of the generator sends: `requests` in all, over `clients` connections."""

    port: int
    clients: int
    requests: int
    body: bytes
    path: str = "/v1/chat/completions"
    pause_s: float = 0.0
    """How long a client waits on average before it asks again; 0: it never waits."""
    seed: int = 0

    def raw(self) -> bytes:
        """The request as it goes over the wire."""
        head = f"POST {self.path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
        head += "Content-Type: application/json\r\nAccept: */*\r\n"
        head += f"Content-Length: {len(self.body)}\r\n\r\n"
        return head.encode() + self.body


Generator = Callable[[Load], dict[str, Any]]


def prepare(folder: Path) -> tuple[Generator, str]:
    """The best generator that this machine has, and its name."""
    compiler = shutil.which("cc")
    if compiler is None:
        print(
            "bench: no C compiler (cc): using a Python load generator. It needs more CPU than "
            "what is measured, so treat latencies as upper bounds.",
            file=sys.stderr,
        )
        return _run_python, "python"
    binary = folder / "loadgen"
    subprocess.run([compiler, "-O2", "-o", str(binary), str(SOURCE), "-lm"], check=True)
    return lambda load: _run_c(binary, load), "c"


def _run_c(binary: Path, load: Load) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile(suffix=".http") as file:
        file.write(load.raw())
        file.flush()
        command = [str(binary), "127.0.0.1", str(load.port), str(load.clients)]
        command += [str(load.requests), file.name, str(load.pause_s * 1e6), str(load.seed)]
        done = subprocess.run(
            command,
            check=True,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _run_python(load: Load) -> dict[str, Any]:
    return asyncio.run(_Clients(load).run())


class _Clients:
    """The same measurements with asyncio's streams."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.chance = random.Random(load.seed)
        self.left = load.requests
        self.errors = 0
        self.events = 0
        self.times: dict[str, list[float]] = {"first": [], "total": [], "gap": []}

    async def run(self) -> dict[str, Any]:
        began = time.perf_counter()
        await asyncio.gather(*(self._client() for _ in range(self.load.clients)))
        seconds = time.perf_counter() - began
        shown: dict[str, Any] = {name: _summary(v) for name, v in self.times.items()}
        shown |= {"requests": self.load.requests, "errors": self.errors}
        return shown | {"events": self.events, "seconds": seconds}

    async def _client(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.load.port)
        while self.left > 0:
            self.left -= 1
            if self.load.pause_s:
                await asyncio.sleep(self.chance.expovariate(1 / self.load.pause_s))
            writer.write(self.load.raw())
            if not await self._answer(reader):
                self.errors += 1
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", self.load.port)
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> bool:
        began = time.perf_counter()
        first = last = 0.0
        events = 0
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            async for piece in _body(reader, head):
                last = time.perf_counter()
                first = first or last
                events += piece.count(b"\n\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return False
        if b" 200 " not in head.split(b"\r\n", 1)[0]:
            return False
        self.events += events
        self.times["first"].append(first - began)
        self.times["total"].append(last - began)
        if events > 2:
            self.times["gap"].append((last - first) / (events - 1))
        return True


async def _body(reader: asyncio.StreamReader, head: bytes) -> Any:
    if b"content-length: " in head:
        length = int(head.split(b"content-length: ", 1)[1].split(b"\r\n", 1)[0])
        yield await reader.readexactly(length)
        return
    while size := int(await reader.readuntil(b"\r\n"), 16):
        yield (await reader.readexactly(size + 2))[:-2]
    await reader.readuntil(b"\r\n")


def _summary(seconds: list[float]) -> dict[str, float] | None:
    if not seconds:
        return None
    ordered = sorted(value * 1e6 for value in seconds)
    return {
        "mean": fmean(ordered),
        "p50": median(ordered),
        "p90": ordered[len(ordered) * 9 // 10],
        "p99": ordered[len(ordered) * 99 // 100],
    }
