"""One request, authenticated and read: what the later stages need to know of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import field, replace
from random import getrandbits
from types import MappingProxyType
from typing import Any

from starlette.types import Scope

from proxy.errors import Headers, InvalidRequest
from proxy.model import Caller, frozen
from proxy.wire import body, references
from proxy.wire import headers as header
from proxy.wire.endpoints import CHAT_COMPLETIONS, Access, Body, Counts, Endpoint
from proxy.wire.form import Form, read_form
from proxy.wire.output import NO_OUTPUT, Output, limit_field, output_of
from proxy.wire.prompt import input_tokens
from proxy.wire.references import Reference
from proxy.wire.tiers import tier_of
from proxy.wire.tokens import BY_BYTES

_VERSION_PREFIX = len(b"/v1")
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Arrival:
    """When a request arrived, and the id that it and its event have from then on."""

    __slots__ = ("id", "monotonic", "time_ms")

    def __init__(self, request_id: str = "", time_ms: int = 0) -> None:
        self.time_ms = time_ms or time.time_ns() // 1_000_000
        self.monotonic = time.monotonic()
        # The time first, so that ids sort by age and the ledger's index grows at one end. No dashes: receivers join
        # source and id with one when they look for repeats. Not from the system's own source, whose call lets another
        # thread in, at each request: ids must differ, also after a fork, and need not be secret.
        self.id = request_id or f"req_{self.time_ms:012x}{getrandbits(64):016x}"


@frozen
class Call:
    """A request as it goes upstream. `target` is path and query below the upstream's base path.

    `endpoint` is what the event calls the route; it may differ from the target (the agent layer's does).
    A call that is not `metered` leaves no event. `rule` is the route that is asked upstream, and `request` what its
    body says, where that is charged by other units than tokens. Where `hides_usage`, the body was made to ask for
    usage, and `own_body` is the client's. `input_tokens` is a first estimate of what the request itself takes.
    `output` is how much it allows to be made, `service_tier` at which tier it asks to be served.
    `references` is what it names by ids in an upstream account that others share: to be checked (`Ownership`). Where it
    `keeps`, its answer may show ids of what it makes there.
    """

    arrival: Arrival
    caller: Caller
    endpoint: str
    metered: bool
    method: str
    target: bytes
    headers: Headers
    body: bytes | None
    model: str = ""
    streamed: bool = False
    hides_usage: bool = False
    own_body: bytes = b""
    rule: Endpoint = CHAT_COMPLETIONS
    request: Mapping[str, Any] = field(default_factory=dict)
    input_tokens: int = 0
    references: tuple[Reference, ...] = ()
    output: Output = NO_OUTPUT
    service_tier: str = ""
    keeps: bool = False


def call_of(scope: Scope, arrival: Arrival, caller: Caller, rule: Endpoint, raw: bytes) -> Call:
    """The call that a request to a route makes: what its body asks for, where that is metered.

    Raises `InvalidRequest` naming the field.
    """
    target = scope["raw_path"][_VERSION_PREFIX:]
    if scope["query_string"]:
        target += b"?" + scope["query_string"]
    content_type = _content_type(scope["headers"])
    kind = rule.reader(content_type)
    if kind is Body.NONE and raw:
        raise InvalidRequest(f"{rule.method} {rule.name} takes no body.")
    shared = not caller.own_account
    headers = header.for_tenant(scope["headers"], caller.subject) if shared else scope["headers"]
    named = _in_path(rule, target) if shared else ()
    checked = rule.signs if shared else ()
    keeps = shared and rule.keeps is not None and rule.keeps in raw
    sent = raw if raw or rule.method not in ("GET", "DELETE") else None
    ask: body.Ask | None = None
    form: Form | None = None
    if rule.metered or (checked and raw):
        if kind is Body.FORM:
            form = read_form(content_type or b"", raw)
            named += references.in_form(form.fields) if checked else ()
        elif kind is Body.JSON:
            body.refuse_heavy(raw)
            ask = body.read(raw, usage_on_request=rule.usage_on_request)
            if checked:
                body.refuse_charset(content_type)
                named += references.in_json(raw, checked)
    start = (arrival, caller, rule.name, rule.metered, scope["method"], target, headers)
    if form is not None:
        return Call(
            *start, sent, form.model, form.streamed, rule=rule, request=form.fields, references=named, keeps=keeps
        )
    if ask is None or not rule.metered:
        return Call(*start, sent, rule=rule, references=named, keeps=keeps)
    asked = ask.document
    return Call(
        *start,
        ask.body,
        ask.model,
        ask.streamed,
        ask.hides_usage,
        raw,
        rule,
        _NOTHING if rule.counts is Counts.TOKENS else asked,
        input_tokens(rule.name, asked, BY_BYTES),
        named,
        output_of(rule.name, asked),
        tier_of(asked),
        keeps,
    )


def _content_type(headers: Headers) -> bytes | None:
    """Raises `InvalidRequest`."""
    content_type = None
    for name, value in headers:
        if name == b"content-type":
            if content_type is not None:
                raise InvalidRequest("Send one Content-Type: upstreams differ in which of several they read.")
            content_type = value
    return content_type


def capped(call: Call, tokens: int, field_of_chat: str) -> Call:
    """The call with so many output tokens as its maximum, where the client set none."""
    name, value = limit_field(call.rule.name, field_of_chat), str(tokens).encode()
    own_body = body.with_member(call.own_body, name, value) if call.own_body else call.own_body
    return replace(call, body=body.with_member(call.body or b"{}", name, value), own_body=own_body)


def _in_path(rule: Endpoint, target: bytes) -> tuple[Reference, ...]:
    """What the path of a route names on which each tenant has what is its own."""
    if rule.access is not Access.OWNED or "{" not in rule.name:
        return ()
    _, kind, named, *_ = target.partition(b"?")[0].decode("ascii", "replace").split("/")
    return (Reference(references.PATHS[kind], named),)
