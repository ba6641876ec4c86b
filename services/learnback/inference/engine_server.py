"""vLLM's own HTTP server, made to read requests and to go as our servers do.

Left alone, vLLM ends its engine first and HTTP afterwards, so a request that comes in between
fails. Here HTTP ends first: no answer is under way, and all are recorded, when the engine is ended.
"""

from __future__ import annotations

import logging
from typing import Any

from uvicorn import Server

from learnback.core import wire
from learnback.core.draining import Draining
from learnback.core.settings import CommonSettings
from learnback.inference.errors import openai_document
from learnback.inference.settings import InferenceSettings

log = logging.getLogger(__name__)


def adopt(
    app: Any, common: CommonSettings, settings: InferenceSettings, draining: Draining
) -> None:
    """At the start of the app's lifespan: vLLM's server, which it keeps in `app.state`, is ours.

    Its signal handlers are set already, and no connection was made yet.
    """
    server = getattr(getattr(app, "state", None), "server", None)
    if not isinstance(server, Server):
        log.warning("vLLM's HTTP server was not found: it reads requests and goes as vLLM does")
        return
    server.config.http_protocol_class = wire.protocol(
        common.head_timeout, openai_document, draining
    )
    server.config.timeout_graceful_shutdown = int(settings.drain.total_seconds())
    draining.watch(server)
