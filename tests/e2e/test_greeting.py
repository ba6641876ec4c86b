"""What `learnback up` prints works as it is pasted."""

from __future__ import annotations

import json
import subprocess
import sys

import httpx
from tests.conftest import wait_until
from tests.e2e.conftest import Up


def command_after(said: str, heading: str) -> str:
    """The lines under a heading, up to the next empty one."""
    return said.split(heading, 1)[1].split("\n", 1)[1].split("\n\n", 1)[0]


def pasted(command: list[str], script: str) -> str:
    done = subprocess.run([*command, script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_the_lines_that_up_prints_work_as_they_are_pasted(up: Up, http: httpx.Client) -> None:
    said = (up.home / "up.log").read_text()
    python = command_after(said, "Or in Python")
    assert len(python.splitlines()) == 4
    assert "ChatCompletion(" in pasted([sys.executable, "-c"], python)

    answer = json.loads(pasted(["bash", "-c"], command_after(said, "Ask it")))
    assert answer["id"].startswith("chatcmpl-")

    judge = command_after(said, "Say what you think").replace("chatcmpl-...", answer["id"])
    taken = json.loads(pasted(["bash", "-c"], judge))

    def joined() -> bool:
        found = http.get(f"{up.urls['feedback']}/v1/feedback/{taken['id']}").json()
        return bool(found["status"] != "pending_target")

    await wait_until(joined, "the thumb is joined to the answer")
