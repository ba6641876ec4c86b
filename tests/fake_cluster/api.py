"""The HTTP API before the objects: routes, tokens and roles (401, 403), selectors, watches."""

from __future__ import annotations

import asyncio
import copy
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from tests.fake_cluster.state import FakeKubernetes, Object, Refused, Served


class Api:
    """The HTTP API of a FakeKubernetes."""

    def __init__(self, state: FakeKubernetes) -> None:
        self.state = state
        self.stopping = False
        methods = ["GET", "POST", "PUT", "PATCH", "DELETE"]
        self.app = Starlette(routes=[Route("/{path:path}", self._answer, methods=methods)])

    async def _answer(self, request: Request) -> Response:
        try:
            if self.state.away:
                return JSONResponse({"message": "the server is away"}, 503)
            body = json.loads(await request.body() or b"{}")
            return self._route(request, body)
        except Refused as refused:
            status = {
                "apiVersion": "v1",
                "kind": "Status",
                "status": "Failure",
                "code": refused.code,
                "reason": refused.reason,
                "message": refused.message,
            }
            return JSONResponse(status, refused.code)

    def _route(self, request: Request, body: Object) -> Response:
        parts = request.url.path.strip("/").split("/")
        if discovered := self._discovery(parts):
            return JSONResponse(discovered)
        place = placed(parts)
        if place is None:
            raise Refused(404, f"no such path: {request.url.path}")
        self._authorize(request, place)
        self.state.asked.append((request.method, request.url.path))
        if request.method == "GET" and not place.name:
            return self._list(request, place)
        return JSONResponse(self._act(request, place, body), 201 if is_create(request) else 200)

    def _act(self, request: Request, place: Place, body: Object) -> Object:
        state, where = self.state, (place.api_version, place.plural)
        at = (place.namespace, place.name)
        if is_create(request):
            return state.create(*where, place.namespace, body)
        if request.method == "GET":
            with state.lock:
                return copy.deepcopy(state.get(state.served(*where), place.plural, *at))
        if request.method == "DELETE":
            return state.delete(*where, *at, body.get("propagationPolicy", "Background"))
        if request.headers.get("content-type") != "application/merge-patch+json":
            raise Refused(415, "only merge patches are served here")
        return state.change(*where, *at, body, subresource=place.subresource)

    def _list(self, request: Request, place: Place) -> Response:
        selector = request.query_params.get("labelSelector", "")
        served = self.state.served(place.api_version, place.plural)
        if request.query_params.get("watch") in ("1", "true"):
            since = int(request.query_params.get("resourceVersion") or 0)
            self.state.watching.add(place.plural)
            stream = self._watch(served, place.namespace, selector, since)
            return StreamingResponse(stream, media_type="application/json")
        with self.state.lock:
            items = [
                copy.deepcopy(found)
                for (namespace, _), found in served.objects.items()
                if place.namespace in ("", namespace) and selects(selector, found)
            ]
            listed = {
                "apiVersion": place.api_version,
                "kind": f"{served.kind}List",
                "metadata": {"resourceVersion": str(self.state.version)},
                "items": items,
            }
        return JSONResponse(listed)

    async def _watch(
        self, served: Served, namespace: str, selector: str, since: int
    ) -> AsyncIterator[bytes]:
        seen = since
        while not self.stopping:
            with self.state.lock:
                fresh = [event for event in served.events if event[0] > seen]
            for version, kind, found in fresh:
                seen = version
                if namespace in ("", found["metadata"]["namespace"]) and selects(selector, found):
                    yield json.dumps({"type": kind, "object": found}).encode() + b"\n"
            await asyncio.sleep(0.02)

    def _authorize(self, request: Request, place: Place) -> None:
        if not self.state.roles:
            return
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        rules = self.state.roles.get(token)
        if rules is None:
            raise Refused(401, "Unauthorized")
        watching = request.query_params.get("watch") in ("1", "true")
        verb = verb_of(request.method, place.name, watching)
        group = place.api_version.rpartition("/")[0]
        resource = "/".join(filter(None, (place.plural, place.subresource)))
        if not allowed(rules, group, resource, verb):
            raise Refused(403, f"cannot {verb} resource {resource!r} in API group {group!r}")

    def _discovery(self, parts: list[str]) -> Object | None:
        """What clients ask before they know a kind; None for any other path."""
        versions = {version for version, _ in self.state.kinds}
        if parts == ["version"]:
            return {"major": "1", "minor": "37", "gitVersion": "v1.37.1"}
        if parts == ["api"]:
            return {"kind": "APIVersions", "versions": ["v1"]}
        if parts == ["apis"]:
            groups = [group_of(v) for v in sorted(versions) if "/" in v]
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
        api_version = "/".join(parts[1:])
        if parts[0] in ("api", "apis") and (api_version in versions or api_version == "v1"):
            return {
                "kind": "APIResourceList",
                "apiVersion": "v1",
                "groupVersion": api_version,
                "resources": resources_of(self.state.kinds, api_version),
            }
        return None


def group_of(api_version: str) -> Object:
    """A group with one version, as discovery lists it."""
    group, _, version = api_version.rpartition("/")
    named = {"groupVersion": api_version, "version": version}
    return {"name": group, "versions": [named], "preferredVersion": named}


def resources_of(kinds: Mapping[tuple[str, str], Served], api_version: str) -> list[Object]:
    """The kinds of a version, as discovery lists them."""
    verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
    listed = []
    for (version, plural), served in kinds.items():
        if version == api_version:
            base = {"kind": served.kind, "namespaced": served.namespaced, "verbs": verbs}
            base["singularName"] = served.kind.lower()
            listed.append({"name": plural, **base})
            if served.status:
                listed.append({"name": f"{plural}/status", **base})
    return listed


@dataclass(frozen=True)
class Place:
    """What a path names."""

    api_version: str
    namespace: str
    plural: str
    name: str = ""
    subresource: str = ""


def placed(parts: list[str]) -> Place | None:
    """`/apis/batch/v1/namespaces/ns/jobs/name/status` as a Place."""
    start = {"api": 2, "apis": 3}.get(parts[0])
    if start is None or len(parts) <= start:
        return None
    api_version, rest = "/".join(parts[1:start]), parts[start:]
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    return Place(api_version, namespace, *rest[:3])


def is_create(request: Request) -> bool:
    """Whether a request makes an object."""
    return request.method == "POST"


def verb_of(method: str, name: str, watching: bool) -> str:
    """RBAC's word for a request."""
    if method == "GET":
        return "get" if name else "watch" if watching else "list"
    return {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}[method]


def selects(selector: str, found: Object) -> bool:
    """Whether an equality-based label selector selects an object."""
    labels = found["metadata"].get("labels", {})
    for term in filter(None, selector.split(",")):
        key, equals, value = term.partition("=")
        if not equals:
            if key not in labels:
                return False
        elif labels.get(key) != value.removeprefix("="):
            return False
    return True


def allowed(rules: list[Object], group: str, resource: str, verb: str) -> bool:
    """Whether RBAC rules allow a verb on a resource such as `jobs` or `pods/log`."""
    return any(
        group in rule["apiGroups"] and resource in rule["resources"] and verb in rule["verbs"]
        for rule in rules
    )


@contextmanager
def serving(state: FakeKubernetes) -> Iterator[FakeKubernetes]:
    """The API on a port of this machine, from a thread of its own; `state.url` names it."""
    listening = socket.create_server(("127.0.0.1", 0))
    api = Api(state)
    server = uvicorn.Server(uvicorn.Config(api.app, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    try:
        yield state
    finally:
        api.stopping = server.should_exit = True
        thread.join(10)
        listening.close()
