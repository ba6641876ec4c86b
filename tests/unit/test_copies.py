"""Copies of artifacts go when nobody has held them for long, and not before."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from learnback.registry import copies
from learnback.registry.artifacts import ArtifactStore

LONG_AGO = time.time() - copies.UNUSED.total_seconds() - 60


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def a_copy(cache: Path, name: str, *, used: float = LONG_AGO) -> Path:
    folder = cache / name
    folder.mkdir(parents=True)
    (folder / "weights").write_text(name)
    os.utime(folder, (used, used))
    return folder


def test_what_nobody_holds_goes_and_what_is_held_or_young_stays(cache: Path) -> None:
    held = a_copy(cache, "held")
    a_copy(cache, "young", used=time.time())
    a_copy(cache, "old")
    a_copy(cache, ".fetching-left-by-a-kill")
    assert copies.tidy(cache, [held]) == [".fetching-left-by-a-kill", "old"]
    assert {path.name for path in cache.iterdir()} == {"held", "young"}
    assert copies.tidy(cache, []) == [], "who held it signed it: another process leaves it alone"


def test_fetching_signs_a_copy(tmp_path: Path, cache: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    (made / "weights").write_text("w")
    store = ArtifactStore(f"file://{tmp_path}/artifacts")
    digest = store.put(made, "v")
    copy = store.fetch("v", digest, cache)
    os.utime(copy, (LONG_AGO, LONG_AGO))
    assert store.fetch("v", digest, cache) == copy
    assert copies.tidy(cache) == []


def test_a_folder_that_is_not_there_and_a_copy_that_went_are_no_trouble(cache: Path) -> None:
    assert copies.tidy(cache, [cache / "gone"]) == []
