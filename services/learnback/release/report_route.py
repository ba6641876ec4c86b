"""The report of an evaluation over HTTP, as Markdown or HTML."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Depends, Request, Response

from learnback.ledger.database import Database
from learnback.ledger.keys import Principal
from learnback.release import reporting
from learnback.release.schemas import Name

KINDS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/markdown": {}, "text/html": {}}, "description": "The report."}
}
STATIC = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
}
"""A report shows what users and models wrote: as text, and never as anything that runs."""


def add_report_route(
    routes: APIRouter, database: Database, operator: Callable[[Request], Awaitable[Principal]]
) -> None:
    """`GET /releases/{version}/report`, for whoever `operator` lets in."""

    @routes.get("/releases/{version}/report", responses=KINDS, response_class=Response)
    async def get_report(
        version: Name, request: Request, principal: Principal = Depends(operator)
    ) -> Response:
        """What its evaluation measured: `text/html` with pictures, or `text/markdown`."""
        found = await reporting.read(database, version)
        if wants_html(request.headers.get("accept", "")):
            return Response(found.html(), media_type="text/html", headers=STATIC)
        text = reporting.without_pictures(found).markdown()
        return Response(text, media_type="text/markdown", headers=STATIC)


def wants_html(accept: str) -> bool:
    """Whether HTML is asked for before Markdown; who does not say gets Markdown."""
    weights = {"text/html": 0.0, "text/markdown": 0.0}
    for part in accept.lower().split(","):
        kind, *parameters = (piece.strip() for piece in part.split(";"))
        if kind in weights:
            q = next((p[2:] for p in parameters if p.startswith("q=")), "1")
            weights[kind] = float(q) if q.replace(".", "", 1).isdigit() else 0.0
    return weights["text/html"] > weights["text/markdown"]
