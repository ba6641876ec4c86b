"""Every link of the Markdown pages that points into the repository points at something."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
WORD = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
FOLDERS = ("bench", "charts", "clients", "docs", "k8s", "requirements", "services", "tests")
PATH = re.compile(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]+\.\w+)`")
PAGES = sorted([*ROOT.glob("*.md"), *(page for f in FOLDERS for page in (ROOT / f).rglob("*.md"))])
HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)
ELSEWHERE = re.compile(r"^[a-z]+:")


def broken(page: Path, text: str) -> list[str]:
    """The links of a page that lead nowhere."""
    found = []
    for _, target in LINK.findall(WORD.sub("", BLOCK.sub("", text))):
        name, _, anchor = target.partition("#")
        there = page if not name else page.parent / name
        if ELSEWHERE.match(target):
            continue
        if not there.exists() or (anchor and anchor not in anchors(there.resolve())):
            found.append(target)
    return found


@cache
def anchors(page: Path) -> frozenset[str]:
    """A page's headings, as GitHub names them."""
    headings = HEADING.findall(BLOCK.sub("", page.read_text()))
    plain = (LINK.sub(r"\1", heading).lower() for heading in headings)
    return frozenset(re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert broken(page, page.read_text()) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_are_there(page: Path) -> None:
    named = PATH.findall(BLOCK.sub("", page.read_text()))
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_a_link_to_nothing_is_found() -> None:
    page = ROOT / "docs" / "canary.md"
    text = "[a](canary.md#what-is-compared) [b](gone.md) [c](#no-such) `[d](x)` [e](https://x)"
    assert broken(page, text) == ["gone.md", "#no-such"]
