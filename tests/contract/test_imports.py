"""Control processes run without torch, vllm, trl and transformers: their image has none of them."""

from __future__ import annotations

import importlib.util
import pkgutil
import subprocess
import sys

import pytest

import learnback

BLOCKED = ("torch", "vllm", "trl", "transformers", "peft", "datasets")
LIGHT = (
    "cli",
    "cli_keys",
    "cli_options",
    "cli_prompts",
    "contracts",
    "core",
    "feedback",
    "ledger",
    "operator",
)
LIGHT += ("registry", "release", "reward")

SCRIPT = """
import importlib, importlib.abc, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(f"{{name}} is blocked: this process runs without it")

sys.meta_path.insert(0, Blocker())
for name in {names!r}:
    importlib.import_module(name)
print("imported", len({names!r}))
"""


def modules(package: str) -> list[str]:
    """The package and everything in it, without importing any of it."""
    name = f"learnback.{package}"
    spec = importlib.util.find_spec(name)
    if spec is None:
        return []
    places = spec.submodule_search_locations or []
    inner = pkgutil.walk_packages(places, f"{name}.")
    return [name, *(m.name for m in inner if ".migrations." not in m.name)]


def run(names: list[str]) -> subprocess.CompletedProcess[str]:
    script = SCRIPT.format(blocked=BLOCKED, names=names)
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("package", LIGHT)
def test_imports_without_heavy_libraries(package: str) -> None:
    names = modules(package)
    assert names, f"learnback.{package} is not there"
    # core.valkey is the embedded server of one machine; it needs its package
    done = run([n for n in names if n != "learnback.core.valkey"])
    assert done.returncode == 0, done.stderr


def test_the_blocker_blocks() -> None:
    done = run(["learnback", BLOCKED[0]])
    assert done.returncode != 0
    assert "is blocked" in done.stderr


def test_the_package_itself_imports_nothing() -> None:
    assert run([learnback.__name__]).returncode == 0
