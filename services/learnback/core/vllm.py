"""Starting vLLM: where its server is, and what it should be told on this machine.

Imports nothing of vLLM, which takes ten seconds.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from learnback.core.errors import LearnbackError

ENTRIES = (
    "vllm.entrypoints.launchers.api_server.entry",
    "vllm.entrypoints.openai.api_server",
)
"""vLLM's server, newest place first."""
GIB = 1 << 30


class NoEngine(LearnbackError):
    """vLLM is not installed."""

    code, title = "no_engine", "No engine"


class OwnedArgument(LearnbackError):
    """An argument for vLLM that we set ourselves."""

    code, title = "owned_argument", "Argument is ours"


def refuse_owned(arguments: Sequence[str], owned: Mapping[str, str]) -> None:
    """Raise OwnedArgument for one of `owned`, which says what to use instead.

    vLLM takes underscores for dashes, and any beginning of a name that is the only one.
    """
    for argument in arguments:
        given = argument.partition("=")[0].replace("_", "-")
        if not given.startswith("--") or given == "--":
            continue
        for name, instead in owned.items():
            if name.startswith(given):
                raise OwnedArgument(f"vLLM's {name} can't be given here; use {instead}.")


def entry() -> str:
    """The module of vLLM's server; found without importing vLLM, which takes ten seconds."""
    found = importlib.util.find_spec("vllm")
    for location in (found.submodule_search_locations or ()) if found else ():
        for module in ENTRIES:
            relative = Path(*module.split(".")[1:]).with_suffix(".py")
            if (Path(location) / relative).is_file():
                return module
    raise NoEngine(
        "vLLM is not installed. Install learnback[cpu] or learnback[gpu], "
        "or name running engines: learnback inference --engine-url http://..."
    )


def environment(model: str, given: Mapping[str, str], *, cpu: bool) -> dict[str, str]:
    """The environment of vLLM's processes for this machine; what is given stays."""
    defaults = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    if Path(model).is_dir():
        defaults |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    if cpu:
        defaults["VLLM_CPU_KVCACHE_SPACE"] = str(kv_cache_gib())
        defaults |= small_machine_threads(sorted(os.sched_getaffinity(0)))
    found = defaults | dict(given)
    library = openmp_library() if cpu else None
    if library is not None and "libiomp5" not in found.get("LD_PRELOAD", ""):
        preloaded = found.get("LD_PRELOAD", "")
        found["LD_PRELOAD"] = f"{library}:{preloaded}".rstrip(":")
    return found


def small_machine_threads(cores: list[int]) -> dict[str, str]:
    """On up to four cores the engine computes on all; vLLM would keep one of them for itself."""
    if not 1 < len(cores) <= 4:
        return {}
    return {"VLLM_CPU_OMP_THREADS_BIND": ",".join(str(core) for core in cores)}


def on_cpu() -> bool:
    """Whether the vLLM that is installed computes on the CPU."""
    try:
        distribution("vllm-cpu")
    except PackageNotFoundError:
        try:
            return "cpu" in distribution("vllm").version
        except PackageNotFoundError:
            return False
    return True


def fast_bfloat16() -> bool:
    """Whether this CPU computes in bfloat16; without, it is four times slower than float32."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def kv_cache_gib() -> int:
    """A sixteenth of the memory, 1 to 16 GiB: the rest is for weights, training and others."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(16, memory // (16 * GIB)))


def openmp_library() -> Path | None:
    """Intel's OpenMP library, which vLLM recommends to preload on x86; None if not installed."""
    try:
        files = distribution("intel-openmp").files or []
    except PackageNotFoundError:
        return None
    paths = [Path(str(file.locate())).resolve() for file in files if file.name == "libiomp5.so"]
    return next((path for path in paths if path.is_file()), None)
