"""An operator's own check, in a process of its own that can neither hang nor eat memory.

The limits protect the release process from mistakes (a regular expression too can take for ever);
it is the operator's code from the operator's file, and never anything that came over the network.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from learnback.release.engine import Answer

SECONDS = 10
"""For all answers to one item, by the wall and by the CPU."""
MEMORY = 1024 * 1024 * 1024
"""Bytes of address space: Python with numpy takes half of it."""
RUNNER = """
import importlib.util, json, re, resource, sys
seconds, memory = int(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
asked = json.load(sys.stdin)
said, sys.stdout = sys.stdout, sys.stderr
if "pattern" in asked:
    check = lambda answer, item: re.search(asked["pattern"], answer)
else:
    spec = importlib.util.spec_from_file_location("golden_check", asked["file"])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    check = getattr(module, asked["function"])
json.dump([bool(check(answer, asked["item"])) for answer in asked["answers"]], said)
"""


class CheckFailed(Exception):
    """A check that says neither right nor wrong."""


async def call(
    folder: Path, named: str, item: Mapping[str, Any], answers: Sequence[Answer]
) -> list[bool]:
    """What `module.py:function` says of each answer to `item`.

    Raises CheckFailed if the function raises, takes too long, or takes too much.
    """
    name, _, function = named.partition(":")
    asked = {"file": str((folder / name).resolve()), "function": function, "item": dict(item)}
    return await _run(named, asked, answers)


async def search(pattern: str, answers: Sequence[Answer]) -> list[bool]:
    """Whether a regular expression matches somewhere, by answer. Raises CheckFailed."""
    return await _run("the regular expression", {"pattern": pattern, "item": None}, answers)


async def _run(named: str, asked: dict[str, Any], answers: Sequence[Answer]) -> list[bool]:
    if not answers:
        return []
    asked["answers"] = [answer.text for answer in answers]
    with tempfile.TemporaryDirectory(prefix="learnback-check-") as scratch:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-I", "-c", RUNNER, str(SECONDS), str(MEMORY)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=scratch,
            env={},
        )
        return _said(named, *await _finished(process, json.dumps(asked).encode()))


async def _finished(process: asyncio.subprocess.Process, text: bytes) -> tuple[int, bytes, bytes]:
    try:
        async with asyncio.timeout(SECONDS):
            said, complained = await process.communicate(text)
    except TimeoutError:
        return -1, b"", f"took more than {SECONDS} s".encode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, said, complained


def _said(named: str, status: int, said: bytes, complained: bytes) -> list[bool]:
    if status:
        last = complained.decode(errors="replace").strip().splitlines()[-1:] or ["was killed"]
        raise CheckFailed(f"{named} failed: {last[0]}")
    try:
        return [bool(right) for right in json.loads(said)]
    except (ValueError, TypeError) as error:
        raise CheckFailed(f"{named} said nothing: {error}") from error
