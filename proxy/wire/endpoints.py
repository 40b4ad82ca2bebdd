"""Every route of OpenAI's API, each with its rule: served and metered, served for free, or refused, and why."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from urllib.parse import unquote_to_bytes

from proxy.errors import ConfigurationError, InvalidRequest, MethodNotAllowed, NotMeterable, RouteRefused, UnknownRoute
from proxy.wire.references import IN_CHAT, IN_IMAGES, IN_RESPONSES, IN_SPEECH


class Access(StrEnum):
    """What becomes of a request for a route."""

    SERVED = "served"
    OWNED = "owned"  # served for whoever made what the path's {id} names; to everyone else there is no such thing
    REFUSED = "refused"  # 403 until the operator allows it: with one upstream account, tenants could read each other
    UNMETERED = "unmetered"  # 501, allowed or not: what follows it would go past the meter


class Body(StrEnum):
    """What a route's request body is; `reader` says how to read the one at hand."""

    NONE = "none"
    JSON = "json"
    FORM = "form"  # multipart/form-data; or JSON, which images/edits and some upstreams' transcriptions take as well
    ANY = "any"


class Counts(StrEnum):
    """What a route is charged by, where that is not tokens alone."""

    TOKENS = "tokens"
    IMAGES = "images"
    AUDIO = "audio"  # seconds heard
    CHARACTERS = "characters"  # spoken


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The rule of one route.

    `name` is the event's `endpoint`. What is `metered` is billable and leaves an event. `usage_on_request` says that
    its streams report usage only where `stream_options.include_usage` asks for it; the other routes answer 400 to
    that option (seen with OpenAI's `/v1/responses`). `why` is the reason of a refusal.

    A body that names what an account holds has one of the `signs` in it (`wire.references`). An answer to a body that
    holds `keeps` (any body holds b"") shows ids of what the tenant has made, which are remembered as its own.
    """

    name: str
    method: str
    metered: bool = True
    usage_on_request: bool = False
    body: Body = Body.JSON
    counts: Counts = Counts.TOKENS
    access: Access = Access.SERVED
    why: str = ""
    signs: tuple[bytes, ...] = ()
    keeps: bytes | None = None

    def reader(self, content_type: bytes | None) -> Body:
        """How to read a body of this type: as JSON, as a form, or (ANY) not at all. Raises `InvalidRequest`."""
        if self.body in (Body.NONE, Body.JSON) or not self.metered:
            return self.body
        kind = (content_type or b"").partition(b";")[0].strip().lower()
        if kind == b"multipart/form-data":
            return Body.FORM
        if kind == b"application/json":
            return Body.JSON
        if self.body is Body.ANY:
            return Body.ANY
        message = f"{self.method} {self.name} takes multipart/form-data or application/json: set the Content-Type."
        raise InvalidRequest(message, code="unsupported_content_type")


CHAT_COMPLETIONS = Endpoint("/v1/chat/completions", "POST", usage_on_request=True, signs=IN_CHAT, keeps=b'"audio"')

#: Every served route, for tests and documentation.
ENDPOINTS = (
    CHAT_COMPLETIONS,
    Endpoint("/v1/completions", "POST", usage_on_request=True),
    Endpoint("/v1/responses", "POST", signs=IN_RESPONSES, keeps=b""),
    Endpoint("/v1/responses/compact", "POST", signs=IN_RESPONSES, keeps=b""),
    # It counts tokens and generates none.
    Endpoint("/v1/responses/input_tokens", "POST", metered=False, signs=IN_RESPONSES),
    Endpoint("/v1/embeddings", "POST"),
    Endpoint("/v1/moderations", "POST"),
    Endpoint("/v1/images/generations", "POST", counts=Counts.IMAGES),
    Endpoint("/v1/images/edits", "POST", body=Body.FORM, counts=Counts.IMAGES, signs=IN_IMAGES),
    Endpoint("/v1/images/variations", "POST", body=Body.FORM, counts=Counts.IMAGES, signs=IN_IMAGES),
    Endpoint("/v1/audio/transcriptions", "POST", body=Body.FORM, counts=Counts.AUDIO),
    Endpoint("/v1/audio/translations", "POST", body=Body.FORM, counts=Counts.AUDIO),
    Endpoint("/v1/audio/speech", "POST", counts=Counts.CHARACTERS, signs=IN_SPEECH),
    Endpoint("/v1/models", "GET", metered=False, body=Body.NONE),
    Endpoint("/v1/models/{model}", "GET", metered=False, body=Body.NONE),
)

#: The routes of what tenants make through this proxy. None is billable: they read again what was generated before.
_OWNED = """
    GET DELETE /responses/{id}         POST /responses/{id}/cancel                  GET /responses/{id}/input_items
    POST /conversations                GET POST DELETE /conversations/{id}
    GET POST /conversations/{id}/items GET DELETE /conversations/{id}/items/{item_id}
"""

#: The refused routes: methods and path. `+json` and `+form`: it costs something each time, so where the operator
#: allows it it leaves an event, and this is its body. Of what a `*` at the end covers, every method is meant.
_SHARED = """
    GET POST /assistants               GET POST DELETE /assistants/{id}
    GET POST /audio/voice_consents     GET POST DELETE /audio/voice_consents/{id}   POST /audio/voices
    GET POST+json /batches             GET /batches/{id}                            POST /batches/{id}/cancel
    GET /chat/completions              GET POST DELETE /chat/completions/{id}       GET /chat/completions/{id}/messages
    GET /chatkit/threads               GET DELETE /chatkit/threads/{id}             GET /chatkit/threads/{id}/items
    GET POST+json /containers          GET DELETE /containers/{id}
    GET POST /containers/{id}/files    GET DELETE /containers/{id}/files/{file_id}
    GET /containers/{id}/files/{file_id}/content
    GET POST /evals                    GET POST DELETE /evals/{id}
    GET POST+json /evals/{id}/runs     GET POST DELETE /evals/{id}/runs/{run_id}
    GET /evals/{id}/runs/{run_id}/output_items/{item_id} GET /evals/{id}/runs/{run_id}/output_items
    GET POST /files                    GET DELETE /files/{id}                       GET /files/{id}/content
    GET POST+json /fine_tuning/jobs    GET /fine_tuning/jobs/{id}                   POST /fine_tuning/jobs/{id}/cancel
    POST /fine_tuning/jobs/{id}/pause  POST /fine_tuning/jobs/{id}/resume           GET /fine_tuning/jobs/{id}/events
    GET /fine_tuning/jobs/{id}/checkpoints
    GET POST /fine_tuning/checkpoints/{model_checkpoint}/permissions
    DELETE /fine_tuning/checkpoints/{model_checkpoint}/permissions/{id}
    POST+json /fine_tuning/alpha/graders/run POST /fine_tuning/alpha/graders/validate
    DELETE /models/{model}
    GET POST /skills                   GET POST DELETE /skills/{id}                 GET /skills/{id}/content
    GET POST /skills/{id}/versions     GET DELETE /skills/{id}/versions/{version}
    GET /skills/{id}/versions/{version}/content
    POST /threads                      GET POST DELETE /threads/{id}                POST+json /threads/runs
    GET POST /threads/{id}/messages    GET POST DELETE /threads/{id}/messages/{message_id}
    GET POST+json /threads/{id}/runs   GET POST /threads/{id}/runs/{run_id}
    POST /threads/{id}/runs/{run_id}/cancel  POST+json /threads/{id}/runs/{run_id}/submit_tool_outputs
    GET /threads/{id}/runs/{run_id}/steps    GET /threads/{id}/runs/{run_id}/steps/{step_id}
    POST /uploads  POST /uploads/{id}/parts  POST /uploads/{id}/complete            POST /uploads/{id}/cancel
    GET POST /vector_stores            GET POST DELETE /vector_stores/{id}          POST /vector_stores/{id}/search
    POST /vector_stores/{id}/file_batches
    GET /vector_stores/{id}/file_batches/{batch_id}      GET /vector_stores/{id}/file_batches/{batch_id}/files
    POST /vector_stores/{id}/file_batches/{batch_id}/cancel
    GET POST /vector_stores/{id}/files GET POST DELETE /vector_stores/{id}/files/{file_id}
    GET /vector_stores/{id}/files/{file_id}/content
    GET POST+form /videos              GET DELETE /videos/{id}                      GET /videos/{id}/content
    POST+form /videos/edits            POST+form /videos/extensions                 POST+form /videos/{id}/remix
    POST /videos/characters            GET /videos/characters/{id}
"""
_SESSIONS = """
    GET POST /realtime                 POST /realtime/sessions                      POST /realtime/client_secrets
    POST /realtime/transcription_sessions                        POST /realtime/translations/client_secrets
    POST /realtime/calls/{id}/accept   POST /realtime/calls/{id}/hangup             POST /realtime/calls
    POST /realtime/calls/{id}/refer    POST /realtime/calls/{id}/reject
    POST /chatkit/sessions             POST /chatkit/sessions/{id}/cancel
"""
#: Nothing below these is ever served, also not what OpenAI adds there one day.
_PAST_THE_METER = re.compile(r"/v1/(?:realtime|chatkit/sessions)(?:/|$)", re.IGNORECASE)

_REFUSALS = (
    (_SHARED, Access.REFUSED, "it reads or changes what all users of this service's upstream account share"),
    ("* /organization/* * /projects/*", Access.REFUSED, "it administers this service's upstream account"),
    ("POST+form /content_provenance_checks", Access.REFUSED, "this service has no meter for what it costs"),
    (_SESSIONS, Access.UNMETERED, "a session with the upstream, or a secret for one, would go past the meter"),
)


def _listed(text: str) -> Iterator[tuple[str, str]]:
    """The methods, each with its path, that a text lists."""
    methods: list[str] = []
    for word in text.split():
        if word.startswith("/"):
            yield from ((method, "/v1" + word) for method in methods)
            methods.clear()
        else:
            methods.append(word)


def _owned() -> Iterator[Endpoint]:
    for method, name in _listed(_OWNED):
        body = Body.JSON if method == "POST" else Body.NONE
        yield Endpoint(name, method, metered=False, body=body, access=Access.OWNED, signs=IN_RESPONSES, keeps=b"")


def _refused() -> Iterator[Endpoint]:
    for text, access, why in _REFUSALS:
        for (method, _, kind), name in ((method.partition("+"), name) for method, name in _listed(text)):
            body = Body(kind) if kind else Body.NONE if method in ("GET", "DELETE") else Body.ANY
            yield Endpoint(name, method, metered=bool(kind), body=body, access=access, why=why)


#: The routes on which each tenant has what is its own.
OWNED = tuple(_owned())
#: The whole table: the rule of every route that is known.
ROUTES = (*ENDPOINTS, *OWNED, *_refused())


def _covering(path: str) -> re.Pattern[str]:
    """What a path with placeholders covers: `{…}` and `*` one segment each, a `*` at the end one or more."""
    # A model's id may hold a slash, plain or encoded (org/model, ft:x): all that follows is one id.
    *stem, last = path.split("/")
    parts = ["[^/]+" if part[:1] in ("*", "{") else re.escape(part) for part in (*stem, last)]
    return re.compile("/".join([*parts[:-1], ".+" if last in ("*", "{model}") else parts[-1]]))


def _by_path() -> list[tuple[re.Pattern[str], dict[str, Endpoint]]]:
    found: dict[str, dict[str, Endpoint]] = {}
    for endpoint in ROUTES:
        found.setdefault(endpoint.name, {})[endpoint.method] = endpoint
    # `/v1/threads/runs` is a path of its own, not a thread named "runs".
    return [(_covering(path), found[path]) for path in sorted(found, key=lambda path: path.count("{"))]


_BY_PATH = _by_path()
#: The plain way, for nearly every request.
_SERVED = {(endpoint.method, endpoint.name.encode()): endpoint for endpoint in ENDPOINTS if "{" not in endpoint.name}

#: A path once decoded: printable ASCII, without what some server decodes again (%), takes for a slash (\\), or cuts
#: the path or a segment at (?, #, and ; with which Tomcat reads "..;" as "..").
_UNAMBIGUOUS = re.compile(rb"/(?:(?![%\\?#;])[!-~])*")
_ONE_MODEL_PREFIX = b"/v1/models/"
#: A slash, or a character that needs no escape: with it `/v1/%66iles` would be another spelling of `/v1/files`.
_NEEDLESS_ESCAPE = re.compile(rb"%(?:2[dDeEfF]|3[0-9]|[46][1-9a-fA-F]|[57][0-9aA]|5[fF]|7[eE])")

#: HEAD and CONNECT are not among them: their answers have no body, whatever their headers say.
_PATTERN = re.compile(r"(GET|POST|PUT|PATCH|DELETE|\*) (/v1(?:/(?:\*|(?!\.\.?(?:/|$))[A-Za-z0-9._~:@-]+))+)")
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def _rules(path: str) -> Mapping[str, Endpoint]:
    """The rules of a path by method; none where it is unknown."""
    return next((rules for covered, rules in _BY_PATH if covered.fullmatch(path)), {})


class Routes:
    """The table, and what the operator allows beyond it.

    `allowed` holds patterns such as `POST /v1/rerank`, `GET /v1/responses/*` or `* /v1/files/*`: a `*` stands for any
    method, for one segment of the path, and as its last segment for one or more. A pattern that covers routes on which
    tenants have what is their own opens these to all. Raises `ConfigurationError`.
    """

    def __init__(self, allowed: Sequence[str]) -> None:
        self._allowed = [_pattern(text) for text in allowed]

    def match(self, method: str, raw_path: bytes, *, own_account: bool = False) -> Endpoint:
        """The endpoint for a request line's method and path, as they stand on the wire (still percent-encoded).

        `own_account`: the caller shares the upstream's account with nobody, so what is refused only because of others
        is served, and so is what others would have to own.

        Raises `UnknownRoute` (404), `MethodNotAllowed` (405), `RouteRefused` (403), `NotMeterable` (501), or
        `InvalidRequest` (400) for a path that the upstream could read otherwise than this table does.
        """
        return _SERVED.get((method, raw_path)) or self._match(method, raw_path, own_account)

    def _match(self, method: str, raw_path: bytes, own_account: bool) -> Endpoint:
        _refuse_ambiguous(raw_path)
        path = raw_path.decode("ascii")
        rules = _rules(path)
        rule = rules.get(method) or rules.get("*")
        if rule is None:
            return self._unknown(method, path, rules)
        if rule.access is Access.SERVED:
            return rule
        if rule.access is Access.UNMETERED:
            raise NotMeterable(f"{method} {rule.name} is not supported: {rule.why}.")
        if own_account or self._allows(method, path):
            return replace(rule, method=method, access=Access.SERVED)
        if rule.access is Access.OWNED:
            return rule
        entry = f"{method if rule.method == method else '*'} {re.sub(r'{[^}]*}', '*', rule.name)}"
        raise RouteRefused(
            f"{method} {rule.name} is refused: {rule.why}. "
            f'Whoever runs this service can allow it with "{entry}" in TOLLGATE_SERVER__ALLOW_ROUTES.'
        )

    def _unknown(self, method: str, path: str, rules: Mapping[str, Endpoint]) -> Endpoint:
        served = [known for known, rule in rules.items() if rule.access in (Access.SERVED, Access.OWNED)]
        allowed = self._allows(method, path)
        # A generation is not to be had past its own rule: not by another method, nor by another spelling.
        if allowed and not any(rule.metered and rule.access is Access.SERVED for rule in rules.values()):
            if _PAST_THE_METER.match(path):
                raise NotMeterable(f"{method} below {allowed} is not supported: it would go past the meter.")
            if rules or not _rules(path.lower()):
                return Endpoint(allowed, method, body=Body.ANY)
        if not rules:
            raise UnknownRoute(f"Unknown request URL: {path[:200]}. The README names the routes that are served.")
        name = next(iter(rules.values())).name
        served += [known for known in rules if known not in served and self._allows(known, path)]
        if allow := ", ".join(served):
            raise MethodNotAllowed(f"{method} {name} is not served by this proxy; use {allow}.", allow)
        raise MethodNotAllowed(f"{name} has no {method}.", ", ".join(rules))

    def _allows(self, method: str, path: str) -> str:
        """The path of the first pattern that allows this, or nothing."""
        found = (name for methods, covered, name in self._allowed if method in methods and covered.fullmatch(path))
        return next(found, "")


def _pattern(text: str) -> tuple[tuple[str, ...], re.Pattern[str], str]:
    found = _PATTERN.fullmatch(" ".join(text.split()))
    if found is None:
        raise ConfigurationError(
            f"server.allow_routes: '{text}' is not a method and a path below /v1, "
            "such as 'POST /v1/rerank', 'GET /v1/responses/*' or '* /v1/files/*'"
        )
    method, name = found.groups()
    if _PAST_THE_METER.match(name):
        raise ConfigurationError(f"server.allow_routes: '{text}' cannot be allowed: it would go past the meter")
    return _METHODS if method == "*" else (method,), _covering(name), name


def _refuse_ambiguous(raw_path: bytes) -> None:
    """Refuse what servers normalise in different ways: dot segments, empty segments, double or needless encoding."""
    decoded = unquote_to_bytes(raw_path)
    outside_ids = raw_path[: len(_ONE_MODEL_PREFIX)] if raw_path.startswith(_ONE_MODEL_PREFIX) else raw_path
    if (
        not _UNAMBIGUOUS.fullmatch(decoded)
        or any(segment in (b"", b".", b"..") for segment in decoded.split(b"/")[1:])
        or _NEEDLESS_ESCAPE.search(outside_ids)
    ):
        raise InvalidRequest(
            "The request path holds dot segments, empty segments, needless escapes or characters that no route has.",
            code="invalid_path",
        )


#: The match of a proxy whose operator allows nothing more.
match = Routes(()).match
