"""The OpenAPI document of what is reachable from outside. Engines take many more fields."""

from __future__ import annotations

from functools import cache
from typing import Any

from learnback import __version__

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
SAMPLING: Schema = {
    "temperature": {"type": "number", "minimum": 0, "maximum": 2},
    "top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    "seed": {"type": "integer"},
    "stream": {"type": "boolean"},
    "user": {"type": "string", "maxLength": 512, "description": "Kept on one version."},
    "safety_identifier": {"type": "string", "maxLength": 512, "description": "Goes before user."},
    "store": {"type": "boolean", "description": "False: keep no content of this answer."},
    "metadata": {
        "type": "object",
        "maxProperties": 16,
        "propertyNames": {"maxLength": 64},
        "additionalProperties": {"type": "string", "maxLength": 512},
        "description": "`session_id` joins answers to the outcome of their session.",
    },
}
COUNT: Schema = {"type": "integer", "minimum": 1, "maximum": 16}
MODEL: Schema = {
    "type": "string",
    "minLength": 1,
    "description": "`learnback`, the base model's name, or a version's exact name to pin it.",
}
MESSAGE: Schema = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {
        "role": {"enum": ["system", "user", "assistant"]},
        "content": TEXT,
    },
}
ERROR: Schema = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type"],
            "properties": {
                "message": TEXT,
                "type": TEXT,
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "integer", "null"]},
            },
        }
    },
}
LIMITS: Schema = {"max_tokens": {"type": "integer", "minimum": 1}, "n": COUNT}


COMPARE: Schema = {
    "name": "X-Learnback-Compare",
    "in": "header",
    "required": False,
    "schema": {"enum": ["1"]},
    "description": "During a canary: both versions' answers as two choices, in an order by chance.",
}


@cache
def document() -> dict[str, Any]:
    """OpenAPI 3.1."""
    chat = {"messages": {"type": "array", "minItems": 1, "items": MESSAGE}, **LIMITS}
    text = {"prompt": TEXT, **LIMITS}
    respond = {
        "input": TEXT,
        "instructions": TEXT,
        "max_output_tokens": {"type": "integer", "minimum": 1},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Learnback inference", "version": __version__},
        "paths": {
            "/v1/chat/completions": {
                "post": {**_post("Answer a chat", chat, "messages"), "parameters": [COMPARE]}
            },
            "/v1/completions": {
                "post": {**_post("Continue a text", text, "prompt"), "parameters": [COMPARE]}
            },
            "/v1/responses": {"post": _post("Create a response", respond, "input")},
            "/v1/models": {"get": _get("The models that can be asked for")},
            "/healthz": {"get": _get("Alive", "text/plain")},
            "/readyz": {"get": _get("Ready to serve the release", failing="503")},
        },
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"key": []}],
    }


def _post(summary: str, properties: Schema, required: str) -> Schema:
    schema = {
        "type": "object",
        "required": ["model", required],
        "properties": {"model": MODEL, **properties, **SAMPLING},
    }
    errors = {
        status: {"description": text, "content": _json(ERROR)}
        for status, text in (
            ("400", "Malformed"),
            ("401", "No good API key"),
            ("403", "The key lacks the scope `infer`"),
            ("404", "No such model"),
            ("408", "Sent too slowly"),
            ("413", "Body too large"),
            ("415", "Not JSON"),
            ("503", "The version can't be served now"),
        )
    }
    ok = {"description": "The answer", "content": _json({}) | {"text/event-stream": {}}}
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": _json(schema)},
        "responses": {"200": ok, **errors},
    }


def _get(summary: str, kind: str = "application/json", failing: str = "") -> Schema:
    responses: Schema = {"200": {"description": summary, "content": {kind: {}}}}
    if failing:
        responses[failing] = {"description": "Not now", "content": _json({})}
    if "models" in summary:
        responses["401"] = {"description": "No good API key", "content": _json(ERROR)}
        responses["403"] = {"description": "The key lacks the scope", "content": _json(ERROR)}
    return {"summary": summary, "responses": responses}


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}
