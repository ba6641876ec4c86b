"""Every `learnback ...` in a code block of the documents is a command, with its options."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from tests.command_line import parse

from learnback.cli import main

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *(ROOT / "docs").rglob("*.md"),
        *ROOT.glob("*.md"),
        *(ROOT / "charts").rglob("*.md"),
        *(ROOT / "k8s").rglob("*.md"),
        ROOT / "charts" / "learnback" / "templates" / "NOTES.txt",
    ]
)
WORDS = re.compile(rf"(?:^|\s)learnback ((?:{'|'.join(sorted(main.commands))})\b.*)")


def commands(page: Path) -> list[str]:
    """What follows `learnback` in code blocks; all of NOTES.txt is one."""
    found, inside = [], page.suffix == ".txt"
    for line in page.read_text().splitlines():
        if line.startswith("```"):
            inside = not inside
        elif inside and (match := WORDS.search(line)):
            found.append(match.group(1))
    return found


FOUND = [(page.relative_to(ROOT), command) for page in PAGES for command in commands(page)]


def test_there_are_commands_to_check() -> None:
    assert len(FOUND) >= 20


@pytest.mark.parametrize(("page", "command"), FOUND)
def test_a_documented_command_can_be_typed(page: Path, command: str) -> None:
    words = shlex.split(command, comments=True)
    ends = [i for i, word in enumerate(words) if word in {"|", "&", ">", "&&", ";"}]
    parse(words[: ends[0]] if ends else words, main)
