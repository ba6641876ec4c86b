"""Stream names stand in contracts/streams.py and nowhere else."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import learnback
from learnback.contracts.streams import KEY_PREFIX, STREAMS, by_name

PACKAGE = Path(learnback.__file__).parent
ALLOWED = {PACKAGE / "contracts" / "streams.py"}
STREAM_CALLS = {"xadd", "xread", "xreadgroup", "xack", "xlen", "xrange", "xrevrange", "xtrim"}


def sources() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py") if p not in ALLOWED)


def offences(source: str) -> list[tuple[int, str]]:
    """Literals that spell a stream's key, or a bare name given to a stream command."""
    found: list[tuple[int, str]] = []
    keys = {stream.key for stream in STREAMS} | {stream.dead_key for stream in STREAMS}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in keys:
            found.append((node.lineno, node.value))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name = node.func.attr
            literals = [a for a in node.args[:3] if isinstance(a, ast.Constant | ast.JoinedStr)]
            if name in STREAM_CALLS:
                found += [(node.lineno, name) for a in literals if is_key(a, name)]
    return found


def is_key(argument: ast.Constant | ast.JoinedStr, call: str) -> bool:
    """A text given where a stream command wants its key."""
    return isinstance(argument, ast.JoinedStr) or isinstance(argument.value, str)


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_stream_name_as_a_literal(path: Path) -> None:
    assert offences(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        f'redis.xadd("{KEY_PREFIX}feedback", fields)',
        'redis.xadd(f"learnback:{name}", fields)',
        'await redis.xlen("feedback")',
        f'KEY = "{KEY_PREFIX}rewards.dead"',
    ],
)
def test_the_lint_finds_literals(source: str) -> None:
    assert offences(f"async def f():\n    {source}\n")


def test_streams_have_distinct_names_and_writers() -> None:
    assert len({stream.key for stream in STREAMS}) == len(STREAMS)
    for stream in STREAMS:
        assert by_name(stream.name) is stream
        assert stream.writer not in stream.groups


def test_an_unknown_stream_is_named_with_the_known_ones() -> None:
    with pytest.raises(KeyError, match=r"nonsense.*completions"):
        by_name("nonsense")
