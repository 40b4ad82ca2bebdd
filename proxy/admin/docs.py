"""`/openapi.json` and `/docs`: the description, for programs and for people. Both are open, and hold no secret."""

from __future__ import annotations

import json
from functools import cached_property
from html import escape
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from proxy.admin.api import operations
from proxy.admin.description import describe
from proxy.admin.problem import KINDS

Json = dict[str, Any]

#: The page has no script, and asks for nothing.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --quiet: color-mix(in srgb, currentColor 65%, Canvas) }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 4rem }
h1 { margin: 0 } h2 { margin: 2.5rem 0 .5rem } p { margin: .5rem 0 }
code, pre { font: .875em/1.45 ui-monospace, monospace } code { overflow-wrap: anywhere }
pre { background: var(--soft); padding: .75rem; overflow-x: auto; border-radius: .4rem }
details { border-top: 1px solid var(--line) } details:last-of-type { border-bottom: 1px solid var(--line) }
summary { padding: .6rem 0; cursor: pointer; display: flex; flex-wrap: wrap; gap: .2rem .75rem; align-items: baseline }
summary b { min-width: 4rem; font-size: .8rem; letter-spacing: .03em } summary span { color: var(--quiet) }
section { padding: 0 0 1rem } .wide { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-size: .9rem }
td, th { text-align: left; vertical-align: top; padding: .3rem .75rem .3rem 0; border-top: 1px solid var(--soft) }
th { color: var(--quiet); font-weight: 600 } td:first-child code { white-space: nowrap } .quiet { color: var(--quiet) }
"""


class Docs:
    """Made, and what they describe loaded, when they are first asked for: a start need not wait for that."""

    async def openapi(self, _: Request) -> Response:
        return Response(self._json, media_type="application/json")

    async def docs(self, _: Request) -> Response:
        return HTMLResponse(self._page, headers={"content-security-policy": _POLICY})

    @cached_property
    def description(self) -> Json:
        return describe(operations())

    @cached_property
    def _json(self) -> bytes:
        return json.dumps(self.description, ensure_ascii=False, separators=(",", ":")).encode()

    @cached_property
    def _page(self) -> str:
        return page(self.description)


def page(description: Json) -> str:
    """A description as one HTML page without a script."""
    info = description["info"]
    about = "".join(f"<p>{_words(part)}</p>" for part in info["description"].split("\n\n"))
    parts = [_group(description, tag["name"]) for tag in description["tags"]]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(info['title'])} API</title><style>{_STYLE}</style>"
        f'<h1>{escape(info["title"])}</h1><p class="quiet">{escape(info["version"])} · '
        f'<a href="/openapi.json">openapi.json</a></p>{about}{"".join(parts)}{_problems()}</html>'
    )


def _group(description: Json, tag: str) -> str:
    found = [
        _operation(description, method, path, one)
        for path, methods in description["paths"].items()
        for method, one in methods.items()
        if tag in one["tags"]
    ]
    return f"<h2>{escape(tag)}</h2>{''.join(found)}"


def _operation(description: Json, method: str, path: str, one: Json) -> str:
    rows = [
        (each["name"], each["in"], each["schema"], each.get("required", False), each.get("description", ""))
        for each in one.get("parameters", ())
    ]
    body = one.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    body = _resolved(description, body)
    rows += [
        (name, "body", each, name in body.get("required", ()), each.get("description", ""))
        for name, each in body.get("properties", {}).items()
    ]
    told = f"<p>{_words(one['description'])}</p>" if "description" in one else ""
    about = f"<p>{_words(body['description'])}</p>" if "description" in body else ""
    return (
        f'<details id="{escape(one["operationId"])}"><summary><b>{method.upper()}</b><code>{escape(path)}</code>'
        f"<span>{_words(one['summary'])}</span></summary><section>{told}{about}{_table(description, rows)}"
        f"{_answers(description, one['responses'])}</section></details>"
    )


def _table(description: Json, rows: list[tuple[str, str, Json, bool, str]]) -> str:
    if not rows:
        return ""
    lines = "".join(
        f"<tr><td><code>{escape(name)}</code><td>{where}<td>{_type(description, schema)}{', required' * required}"
        f"<td>{_words(words)}"
        for name, where, schema, required, words in rows
    )
    return f'<div class="wide"><table><tr><th>name<th>in<th>type<th>{lines}</table></div>'


def _answers(description: Json, responses: Json) -> str:
    shown = []
    for status, answer in responses.items():
        for media_type, content in answer.get("content", {}).items():
            example = _example(description, content["schema"], depth=0)
            shape = f"<pre>{escape(json.dumps(example, indent=1))}</pre>" if status != "default" and example else ""
            shown.append(f'<p class="quiet">{escape(status)} <code>{escape(media_type)}</code></p>{shape}')
    return "".join(shown)


def _example(description: Json, schema: Json, *, depth: int) -> Any:
    """The shape of a value, by the types of its members."""
    schema = _resolved(description, schema)
    if "properties" in schema and depth < 5:
        return {name: _example(description, each, depth=depth + 1) for name, each in schema["properties"].items()}
    if schema.get("type") == "array":
        return [_example(description, schema.get("items", {}), depth=depth + 1)]
    return _type(description, schema) if depth else None


def _type(description: Json, schema: Json) -> str:
    """A type in a few words: `string`, `integer or null`, `active | disabled`."""
    schema = _resolved(description, schema)
    if "anyOf" in schema:
        return " or ".join(_type(description, each) for each in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(escape(str(each)) for each in schema["enum"] if each != "")
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"list of {_type(description, schema.get('items', {}))}"
    return " or ".join(kind) if isinstance(kind, list) else str(kind)


def _resolved(description: Json, schema: Json) -> Json:
    name = schema.get("$ref", "").rpartition("/")[2]
    resolved: Json = description["components"]["schemas"][name] if name else schema
    return resolved


def _problems() -> str:
    lines = "".join(
        f'<tr id="{kind}"><td><code>{kind}</code><td>{status}<td>{escape(title)}'
        for kind, (status, title) in KINDS.items()
    )
    return (
        "<h2>Problems</h2><p>The <code>type</code> of a problem of <code>/admin/*</code> ends in one of these; its "
        "<code>errors</code> name the fields that are wrong.</p>"
        f'<div class="wide"><table><tr><th>type<th>status<th>{lines}</table></div>'
    )


def _words(text: str) -> str:
    """Plain text in which what stands between backticks is code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if at % 2 else part for at, part in enumerate(parts))
