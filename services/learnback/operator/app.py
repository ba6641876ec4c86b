"""The operator's process: mirror and watch beside its health checks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import httpx
import kopf
from fastapi import FastAPI

from learnback import __version__
from learnback.core.http import add_error_handlers, add_health_routes
from learnback.core.kubernetes import ACCOUNT, Cluster
from learnback.core.logging import configure
from learnback.core.process import running, serve
from learnback.core.settings import CommonSettings
from learnback.operator.mirror import Mirror
from learnback.operator.releases import Releases
from learnback.operator.settings import OperatorSettings
from learnback.operator.watching import Login, watch

REQUEST_S = 30.0


def create_app(
    settings: OperatorSettings,
    *,
    cluster: Cluster,
    releases: Releases,
    login: Login,
    close: Sequence[Callable[[], Awaitable[None]]] = (),
) -> FastAPI:
    """The app with its loops, which run while its lifespan does; `close` runs at its end."""
    mirror = Mirror(cluster, releases, settings.poll.total_seconds())
    watching = partial(watch, login, cluster.namespace, mirror.wake.set)
    watching.__qualname__ = "watch"  # type: ignore[attr-defined]

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with running(loops=[mirror.run_forever, watching]):
            yield
        for closing in close:
            await closing()

    app = FastAPI(title="Learnback operator", version=__version__, lifespan=lifespan)
    add_error_handlers(app)
    add_health_routes(app, {"mirror": mirror.check})
    return app


def main() -> None:
    """Run the process with settings from the environment, in the cluster around it."""
    settings, common = OperatorSettings(), CommonSettings()
    configure("operator", level=common.log_level, format=common.log_format)
    cluster = Cluster.around_us()
    http = httpx.AsyncClient(base_url=settings.release_url, timeout=REQUEST_S, trust_env=False)
    releases = Releases(http, settings.api_key.get_secret_value())
    app = create_app(
        settings,
        cluster=cluster,
        releases=releases,
        login=partial(_login, cluster),
        close=[cluster.close, http.aclose],
    )
    serve(app, settings.host, settings.port, common)


def _login(cluster: Cluster) -> kopf.ConnectionInfo:
    """kopf's credentials: those of our own client, read anew whenever kopf is refused."""
    token = (ACCOUNT / "token").read_text().strip()
    return kopf.ConnectionInfo(
        server=str(cluster.http.base_url),
        ca_path=str(ACCOUNT / "ca.crt"),
        scheme="Bearer",
        token=token,
        default_namespace=cluster.namespace,
    )
