"""A request made fit for the engine, for the version that answers it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec

from learnback.contracts.headers import AS_TENANT
from learnback.contracts.models import Endpoint, Scope, VersionKind
from learnback.core.errors import BadRequest
from learnback.inference import body as bodies
from learnback.inference import prompts
from learnback.inference.examples import Applied
from learnback.inference.routing import Assignment
from learnback.inference.services import Services
from learnback.ledger.keys import Principal, require_scope

_AS_TENANT = AS_TENANT.encode()
ID_PREFIX: dict[Endpoint, str] = {
    "chat.completions": "chatcmpl-",
    "completions": "cmpl-",
    "responses": "resp_",
}
"""What engines put before the request id to make the response's id."""


class Asked(msgspec.Struct, frozen=True):
    """What somebody asked, whoever answers it."""

    endpoint: Endpoint
    body: bytes
    """As it came."""
    peeked: bodies.Peek
    headers: bodies.Headers
    """Those that go on to the engine."""
    principal: Principal
    subject: str | None
    examples_of: str
    """The tenant whose examples a prompt strategy shows."""
    compares: bool = False
    """They want two answers side by side, if there are two versions."""


def whose_examples(principal: Principal, peeked: bodies.Peek, ours: Mapping[bytes, bytes]) -> str:
    """The tenant whose examples go with a request: the caller's, or the one that it names.

    Naming another takes the scope `evaluate`, and `store: false`: what an answer takes from one
    tenant's examples is kept among no other's answers. Raises Forbidden or BadRequest.
    """
    named = ours.get(_AS_TENANT)
    if named is None or named.decode("latin-1") == principal.tenant:
        return principal.tenant
    require_scope(principal, Scope.EVALUATE)
    if peeked.store is not False:
        raise BadRequest("Who asks as another tenant says `store: false`.", field="store")
    return named.decode("latin-1")


class Prepared(msgspec.Struct, frozen=True):
    """A request that is fit for the engine."""

    asked: Asked
    request_id: str
    completion_id: str
    rewritten: bytes
    headers: bodies.Headers
    assignment: Assignment
    applied: Applied | None
    """What the version's prompt strategy did; None: it has none."""
    pair: str | None = None
    """The id of the answer that is shown instead of this one's, or of the two side by side."""
    place: int | None = None
    """Of two side by side: 0 is shown first."""


def prepare(
    services: Services,
    asked: Asked,
    fields: bodies.Fields,
    assignment: Assignment,
    request_id: str,
    *,
    pair: str | None = None,
    place: int | None = None,
) -> Prepared:
    """The request for the version that is assigned. `fields` are the body's, and change."""
    applied = _apply_strategy(services, assignment, asked, fields)
    if assignment.version.kind is VersionKind.PROMPT:
        fields["cache_salt"] = _salt(assignment.version.name, fields.get("cache_salt"))
    completion_id = ID_PREFIX[asked.endpoint] + request_id
    rewritten = bodies.rewrite(
        fields,
        assignment.version.engine_model,
        _id_field(services, asked),
        completion_id,
        services.settings.drop_fields,
    )
    return Prepared(
        asked=asked,
        request_id=request_id,
        completion_id=completion_id,
        rewritten=rewritten,
        headers=bodies.engine_headers(asked.headers, rewritten, request_id),
        assignment=assignment,
        applied=applied,
        pair=pair,
        place=place,
    )


def _id_field(services: Services, asked: Asked) -> str | None:
    """The body's field in which the engine takes the answer's id; None: a header says it."""
    if asked.endpoint == "responses":
        return "request_id"
    one_chat = asked.endpoint == "chat.completions" and asked.peeked.n in {None, 1}
    return services.follower.base.dialect.id_field if one_chat else None


def _salt(version: str, given: msgspec.Raw | None) -> msgspec.Raw:
    """Keeps a prompt version's prefixes apart from those of others on the same weights.

    vLLM tells adapters apart by their names and files. Without a salt a candidate that changes only
    the prompt would find stable's prefixes computed already, and look faster than it is.
    """
    digest = hashlib.sha256(version.encode() + b"\0" + bytes(given or b"")).hexdigest()
    return msgspec.Raw(msgspec.json.encode(digest[:32]))


def _apply_strategy(
    services: Services, assignment: Assignment, asked: Asked, fields: bodies.Fields
) -> Applied | None:
    """Change `fields` as the version's prompt strategy says; None if it has none."""
    version, follower = assignment.version, services.follower
    if version.strategy is None:
        return None
    prompter = follower.banks.prompter(version.name, version.strategy)
    tenant, context = asked.examples_of, follower.context
    try:
        applied = prompts.apply(prompter, asked.endpoint, fields, tenant, context)
    except msgspec.DecodeError as error:
        raise BadRequest(f"The body is not JSON: {error}.") from None
    for name, value in applied.changed.items():
        fields[name] = msgspec.Raw(msgspec.json.encode(value))
    return applied
