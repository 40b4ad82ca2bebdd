"""What this service speaks, as OpenAPI 3.1 has it: `/openapi.json`. Operations describe themselves by their models."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from proxy import __version__
from proxy.admin.operation import Operation
from proxy.admin.problem import CONTENT_TYPE
from proxy.agent.endpoint import ENDPOINTS
from proxy.web.usage import FORMATS, GROUPS

Json = dict[str, Any]

_TEMPLATE = "#/components/schemas/{model}"
_ABOUT = """\
Tollgate is an OpenAI-compatible reverse proxy that meters. `/v1/*` is OpenAI's own API, with a tenant's key: point an
SDK's `base_url` there, and see OpenAI's reference for what it takes. Described here is what Tollgate adds.

Clients send their key as Bearer or in `X-Api-Key`. Operators send the admin token (`TOLLGATE_ADMIN_TOKEN`) as Bearer
to `/admin/*`, which is off where no token is set. Errors of `/admin/*` are problem details (RFC 9457), all others have
OpenAI's shape. Lists come in pages: ask for the next one with `after`, which is the `next` of the last."""
_ONCE: Json = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "A key of your own for this request. Repeated with it within a day, it changes nothing and is"
    " answered the same (with `Idempotent-Replayed: true`), but never with a secret. For another one it is refused.",
    "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
}
_TEXT: Json = {"type": "string"}
_PROBLEM: Json = {
    "type": "object",
    "description": "What went wrong (RFC 9457).",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": _TEXT,
        "title": _TEXT,
        "status": {"type": "integer"},
        "detail": _TEXT,
        "errors": {
            "type": "array",
            "description": "Which fields are wrong.",
            "items": {
                "type": "object",
                "required": ["field", "detail"],
                "properties": {"field": _TEXT, "detail": _TEXT},
            },
        },
    },
}
_ERROR: Json = {
    "type": "object",
    "description": "What went wrong, in OpenAI's shape.",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": _TEXT,
                "type": _TEXT,
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_OBJECT: Json = {"application/json": {"schema": {"type": "object"}}}


def describe(operations: Sequence[Operation[Any, Any]]) -> Json:
    """The whole description."""
    asked = [(one.takes, "validation") for one in operations] + [(kind, "validation") for kind in ENDPOINTS.values()]
    told = [(one.gives, "serialization") for one in operations]
    models = {*asked, *told}
    schemas, definitions = models_json_schema(
        sorted(models, key=lambda pair: (pair[0].__name__, pair[1])),  # type: ignore[arg-type]
        by_alias=True,
        ref_template=_TEMPLATE,
    )
    made = definitions.get("$defs", {})
    paths: dict[str, Json] = {path: dict(methods) for path, methods in _web_paths().items()}
    for path, kind in ENDPOINTS.items():
        paths[path] = {"post": _agent(path, kind, schemas[kind, "validation"])}
    for one in operations:
        schema = _resolved(schemas[one.takes, "validation"], made)
        answer = schemas[one.gives, "serialization"]
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one, schema, answer)
    used = {one.takes.__name__ for one in operations}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tollgate", "version": __version__, "description": _ABOUT},
        "tags": [{"name": name} for name in ("For tenants", "Agent", "For operators", "Service")],
        "paths": paths,
        "components": {
            "schemas": {
                **{name: schema for name, schema in made.items() if name not in used},
                "Problem": _PROBLEM,
                "Error": _ERROR,
            },
            "securitySchemes": {
                "admin": {"type": "http", "scheme": "bearer", "description": "TOLLGATE_ADMIN_TOKEN"},
                "key": {"type": "http", "scheme": "bearer", "description": "A tenant's key."},
                "header": {"type": "apiKey", "in": "header", "name": "X-Api-Key", "description": "A tenant's key."},
            },
        },
    }


def _operation(one: Operation[Any, Any], schema: Json, answer: Json) -> Json:
    summary, _, more = (inspect.getdoc(one.do) or "").partition(". ")
    properties = {name: value for name, value in schema.get("properties", {}).items() if name not in one.in_path}
    required = [name for name in schema.get("required", []) if name in properties]
    told: Json = {"application/json": {"schema": answer}}
    if one.csv is not None:
        told["text/csv"] = {"schema": _TEXT}
    described: Json = {
        "operationId": one.name,
        "tags": ["For operators"],
        "summary": summary.rstrip("."),
        "security": [{"admin": []}],
        "parameters": [_parameter(name, "path", {"type": "string", "minLength": 1}, True) for name in one.in_path],
        "responses": {
            str(one.status): {"description": HTTPStatus(one.status).phrase, "content": told},
            "default": {
                "description": "A problem.",
                "content": {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
            },
        },
    }
    if more:
        described["description"] = more
    if one.in_query:
        described["parameters"] += [
            _parameter(name, "query", value, name in required) for name, value in properties.items()
        ]
    else:
        body: Json = {"type": "object", "properties": properties, "additionalProperties": False}
        if required:
            body["required"] = required
        if "description" in schema:
            body["description"] = schema["description"]
        described["requestBody"] = {"required": bool(required), "content": {"application/json": {"schema": body}}}
    if one.method == "POST":
        described["parameters"].append(_ONCE)
    return described


def _parameter(name: str, where: str, schema: Json, required: bool) -> Json:
    described = {key: value for key, value in schema.items() if key == "description"}
    schema = {key: value for key, value in schema.items() if key not in ("description", "title")}
    return {"name": name, "in": where, "required": required, "schema": schema} | described


def _resolved(schema: Json, made: Json) -> Json:
    name = schema.get("$ref", "").rpartition("/")[2]
    resolved: Json = made[name] if name else schema
    return resolved


def _agent(path: str, kind: type[BaseModel], schema: Json) -> Json:
    word = path.rpartition("/")[2]
    return {
        "operationId": word,
        "tags": ["Agent"],
        "summary": f"{word.capitalize()}, metered as one request",
        "security": [{"key": []}, {"header": []}],
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {
            "200": {
                "description": "The answer; with `stream`, server-sent events.",
                "content": {**_OBJECT, "text/event-stream": {"schema": _TEXT}},
            },
            "default": _refused(),
        },
    }


def _web_paths() -> dict[str, Json]:
    usage = [
        ("from", "A date or an RFC 3339 instant. Default: the month's begin.", _TEXT),
        ("to", "Until then, exclusively. Default: the end of the current month.", _TEXT),
        ("group_by", f"With commas, any of {', '.join(GROUPS)}.", _TEXT),
        ("format", "How to answer.", {"type": "string", "enum": [*FORMATS]}),
    ]
    return {
        "/api/usage": {
            "get": {
                "operationId": "usage",
                "tags": ["For tenants"],
                "summary": "What the key's tenant has used, and what is left of its limits",
                "security": [{"key": []}, {"header": []}],
                "parameters": [
                    {"name": name, "in": "query", "description": words, "schema": schema}
                    for name, words, schema in usage
                ],
                "responses": {
                    "200": {"description": "The usage.", "content": {**_OBJECT, "text/csv": {"schema": _TEXT}}},
                    "default": _refused(),
                },
            }
        },
        "/healthz": {"get": _plain("healthz", "Whether the process lives", _OBJECT)},
        "/readyz": {"get": _plain("readyz", "Whether new requests are served (503: not)", _OBJECT, "503")},
        "/metrics": {
            "get": _plain("metrics", "Numbers for Prometheus", {"text/plain": {"schema": _TEXT}})
            | {"security": [{}, {"admin": []}]}
        },
        "/openapi.json": {"get": _plain("openapi", "This description", _OBJECT)},
        "/docs": {"get": _plain("docs", "This description, to read", {"text/html": {"schema": _TEXT}})},
        **{f"/hooks/{source.lower()}": {"post": _hook(source)} for source in ("OpenMeter", "Stripe")},
    }


def _hook(source: str) -> Json:
    return {
        "operationId": f"hooks_{source.lower()}",
        "tags": ["Service"],
        "summary": f"What {source} tells of invoices, with its signature",
        "requestBody": {"required": True, "content": _OBJECT},
        "responses": {"204": {"description": "What follows is on disk."}, "default": _refused()},
    }


def _plain(name: str, summary: str, content: Json, *more: str) -> Json:
    answers = {status: {"description": HTTPStatus(int(status)).phrase, "content": content} for status in ("200", *more)}
    return {"operationId": name, "tags": ["Service"], "summary": summary, "responses": answers}


def _refused() -> Json:
    schema = {"$ref": "#/components/schemas/Error"}
    return {"description": "An error, in OpenAI's shape.", "content": {"application/json": {"schema": schema}}}
