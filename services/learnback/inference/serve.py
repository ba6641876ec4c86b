"""`learnback inference`: vLLM's own server with our middleware in it, or our proxy before others.

This process turns into vLLM's (exec), so that signals, exit codes and the process id are its own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial

from learnback.core import logging as core_logging
from learnback.core import vllm
from learnback.core.errors import LearnbackError
from learnback.core.settings import CommonSettings
from learnback.inference.resolver import BASE_DIGEST
from learnback.inference.settings import InferenceSettings
from learnback.registry.artifacts import digest_model
from learnback.registry.store import version_name

MIDDLEWARE = "learnback.inference.middleware.LearnbackMiddleware"
PLUGIN = "learnback"
OWNED = {
    "--host": "LEARNBACK_INFERENCE_HOST",
    "--port": "LEARNBACK_INFERENCE_PORT",
    "--uds": "LEARNBACK_INFERENCE_HOST and LEARNBACK_INFERENCE_PORT",
    "--middleware": "a proxy before this server",
    "--api-key": "`learnback keys create`",
    "--model": "LEARNBACK_MODEL",
    "--served-model-name": "LEARNBACK_INFERENCE_PUBLIC_NAME",
    "--max-lora-rank": "LEARNBACK_INFERENCE_MAX_LORA_RANK",
    "--max-loras": "LEARNBACK_INFERENCE_MAX_LORAS",
    "--shutdown-timeout": "LEARNBACK_INFERENCE_DRAIN",
}
"""What an operator may not give to vLLM past our settings, and what to use instead: whether keys
are asked for goes by the host, and adapters by the names."""


class NoModel(LearnbackError):
    """There is nothing to serve."""

    code, title = "no_model", "No model"


class BadEngineUrl(LearnbackError):
    """What names an engine is no URL."""

    code, title = "bad_engine_url", "Bad engine URL"


def main(engine_urls: Sequence[str] = ()) -> None:
    """Serve until SIGTERM; settings from the environment, `engine_urls` before theirs."""
    common = CommonSettings()
    given = {"engine_urls": ",".join(engine_urls)} if engine_urls else {}
    settings = InferenceSettings.model_validate(given)
    core_logging.configure("inference", level=common.log_level, format=common.log_format)
    if settings.engine_urls:
        _serve_proxy(common, settings)
        return
    if not common.model:
        raise NoModel("Say which model to serve: LEARNBACK_MODEL=<folder or hub name>.")
    digest = digest_model(common.model)
    arguments = engine_arguments(common.model, digest, settings)
    command = [sys.executable, "-m", vllm.entry(), *arguments]
    environment = engine_environment(common.model, digest, os.environ, cpu=vllm.on_cpu())
    os.execve(sys.executable, command, environment)  # no shell wanted


def _serve_proxy(common: CommonSettings, settings: InferenceSettings) -> None:
    from learnback.core import draining, wire
    from learnback.inference.errors import openai_document
    from learnback.inference.middleware import LearnbackMiddleware
    from learnback.inference.proxy import create_app
    from learnback.inference.services import before_engines

    try:
        app = create_app(settings.engine_urls, engine_key=settings.engine_key)
    except ValueError as error:
        raise BadEngineUrl(str(error)) from error
    drains = draining.Draining(common.linger)
    draining.run(
        LearnbackMiddleware(app, partial(before_engines, settings=settings, draining=drains)),
        drains,
        host=settings.host,
        port=settings.port,
        http=wire.protocol(common.head_timeout, openai_document, drains),
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,  # the engine's own goes through
        timeout_graceful_shutdown=int(settings.drain.total_seconds()),
    )


def engine_arguments(model: str, digest: str, settings: InferenceSettings) -> list[str]:
    """vLLM's command line. What the operator adds wins; OwnedArgument for what is ours."""
    vllm.refuse_owned(settings.engine_args, OWNED)
    arguments = ["--model", model]
    arguments += ["--served-model-name", version_name(model, "base", digest)]
    arguments += ["--host", settings.host, "--port", str(settings.port)]
    arguments += ["--middleware", MIDDLEWARE, "--disable-uvicorn-access-log"]
    arguments += ["--enable-lora", "--max-lora-rank", str(settings.max_lora_rank)]
    arguments += ["--max-loras", str(settings.max_loras)]
    arguments += ["--max-cpu-loras", str(4 * settings.max_loras)]
    arguments += ["--shutdown-timeout", str(int(settings.drain.total_seconds()))]
    own = list(settings.engine_args)
    if "--dtype" not in own and vllm.on_cpu() and not vllm.fast_bfloat16():
        arguments += ["--dtype", "float32"]
    return arguments + own


def engine_environment(
    model: str, digest: str, given: Mapping[str, str], *, cpu: bool
) -> dict[str, str]:
    """The environment of vLLM's processes; what is given stays, but for what we stand on."""
    environment = vllm.environment(model, given, cpu=cpu)
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
    return environment


if __name__ == "__main__":
    main()
