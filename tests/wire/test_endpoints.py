from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from proxy.errors import (
    ConfigurationError,
    InvalidRequest,
    MethodNotAllowed,
    NotMeterable,
    ProxyError,
    RouteRefused,
    UnknownRoute,
)
from proxy.wire.endpoints import (
    CHAT_COMPLETIONS,
    ENDPOINTS,
    ROUTES,
    Access,
    Body,
    Counts,
    Endpoint,
    Routes,
    match,
)
from proxy.wire.endpoints import OWNED as OWNED_ROUTES

TSV = Path(__file__).parent.parent.parent.parent / "shared" / "contracts" / "openai-routes.tsv"
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "get", "")

METERED = {
    *("chat/completions", "completions", "responses", "responses/compact", "embeddings", "moderations"),
    *("images/generations", "images/edits", "images/variations"),
    *("audio/transcriptions", "audio/translations", "audio/speech"),
}
FREE = {("GET", "models"), ("GET", "models/{model}"), ("POST", "responses/input_tokens")}
#: Below these, and to make a conversation, tenants have what is their own.
OWNED = re.compile(r"responses/\{.*|conversations(/.*)?")
#: First segments, or whole paths, of what is refused with a 501.
PAST_THE_METER = ("realtime/", "chatkit/sessions")


def openai_routes() -> list[tuple[str, str]]:
    """Method and path below `/v1`, as OpenAI's own description of its API names them."""
    if not TSV.is_file():
        return []
    with TSV.open(newline="") as lines:
        rows = csv.DictReader(lines, delimiter="\t")
        return sorted({(row["method"], row["path"].partition("?")[0].lstrip("/")) for row in rows})


def access(method: str, path: str) -> str:
    """The class of a route: what a request for it comes to."""
    raw_path = b"/v1/" + re.sub(r"\{\w+\}", "abc_1-2", path).encode()
    try:
        endpoint = match(method, raw_path)
    except ProxyError as error:
        return {RouteRefused: "403", NotMeterable: "501", MethodNotAllowed: "405"}.get(type(error), repr(error))
    if endpoint.access is Access.OWNED:
        return "owned"
    return "metered" if endpoint.metered else "free"


def expected(method: str, path: str) -> str:
    if method == "POST" and path in METERED:
        return "metered"
    if (method, path) in FREE:
        return "free"
    if OWNED.fullmatch(path):
        return "owned"
    return "501" if path.startswith(PAST_THE_METER) else "403"


needs_tsv = pytest.mark.skipif(not TSV.is_file(), reason=f"the list of OpenAI's routes is not here: {TSV}")


@needs_tsv
def test_every_route_of_openai_falls_into_exactly_one_class() -> None:
    found = {route: access(*route) for route in openai_routes()}
    assert found == {route: expected(*route) for route in openai_routes()}
    counts = {kind: list(found.values()).count(kind) for kind in set(found.values())}
    assert counts == {"metered": 12, "free": 3, "owned": 12, "403": 243, "501": 11}


@needs_tsv
def test_every_known_path_answers_a_wrong_method_with_405_and_the_methods_that_may_be_used() -> None:
    paths: dict[str, set[str]] = {}
    for method, path in openai_routes():
        paths.setdefault(path, set()).add(method)
    for path, known in paths.items():
        if path.startswith(("organization/", "projects/")):
            continue  # refused whole, whatever the method
        served = {method for method in known if expected(method, path) in ("metered", "free", "owned")}
        for method in set(METHODS) - known:
            with pytest.raises(MethodNotAllowed) as refusal:
                match(method, b"/v1/" + re.sub(r"\{\w+\}", "abc", path).encode())
            assert set(refusal.value.allow.split(", ")) == (served or known), path


@pytest.mark.parametrize(
    ("method", "path", "name", "metered", "usage_on_request"),
    [
        ("POST", b"/v1/chat/completions", "/v1/chat/completions", True, True),
        ("POST", b"/v1/completions", "/v1/completions", True, True),
        ("POST", b"/v1/responses", "/v1/responses", True, False),
        ("POST", b"/v1/responses/compact", "/v1/responses/compact", True, False),
        ("POST", b"/v1/responses/input_tokens", "/v1/responses/input_tokens", False, False),
        ("POST", b"/v1/embeddings", "/v1/embeddings", True, False),
        ("POST", b"/v1/moderations", "/v1/moderations", True, False),
        ("GET", b"/v1/models", "/v1/models", False, False),
        ("GET", b"/v1/models/gpt-4o", "/v1/models/{model}", False, False),
        ("GET", b"/v1/models/org/model", "/v1/models/{model}", False, False),
        ("GET", b"/v1/models/org%2Fft:x", "/v1/models/{model}", False, False),
        ("GET", b"/v1/models/org%2fft%3Ax@2024~1+a=b", "/v1/models/{model}", False, False),
        ("GET", b"/v1/models/...", "/v1/models/{model}", False, False),
    ],
)
def test_the_served_routes(method: str, path: bytes, name: str, metered: bool, usage_on_request: bool) -> None:
    endpoint = match(method, path)
    assert (endpoint.name, endpoint.metered, endpoint.usage_on_request) == (name, metered, usage_on_request)
    assert endpoint.method == method


def test_each_rule_says_what_the_body_is_and_what_is_counted() -> None:
    tokens = {one.name.removeprefix("/v1/") for one in ENDPOINTS if one.counts is Counts.TOKENS and one.metered}
    assert tokens == {path for path in METERED if not path.startswith(("images", "audio"))}
    assert {one.name: (one.body, one.counts) for one in ENDPOINTS if one.counts is not Counts.TOKENS} == {
        "/v1/images/generations": (Body.JSON, Counts.IMAGES),
        "/v1/images/edits": (Body.FORM, Counts.IMAGES),
        "/v1/images/variations": (Body.FORM, Counts.IMAGES),
        "/v1/audio/transcriptions": (Body.FORM, Counts.AUDIO),
        "/v1/audio/translations": (Body.FORM, Counts.AUDIO),
        "/v1/audio/speech": (Body.JSON, Counts.CHARACTERS),
    }
    assert all((one.body is Body.NONE) == (one.method == "GET") for one in ENDPOINTS)


@pytest.mark.parametrize(
    ("body", "content_type", "reader"),
    [
        (Body.JSON, None, Body.JSON),
        (Body.JSON, b"text/plain", Body.JSON),
        (Body.NONE, b"application/json", Body.NONE),
        (Body.FORM, b"multipart/form-data; boundary=x", Body.FORM),
        (Body.FORM, b"Multipart/Form-Data;boundary=x", Body.FORM),
        (Body.FORM, b"application/json; charset=utf-8", Body.JSON),
        (Body.ANY, b"application/json", Body.JSON),
        (Body.ANY, b"multipart/form-data; boundary=x", Body.FORM),
        (Body.ANY, b"application/octet-stream", Body.ANY),
        (Body.ANY, None, Body.ANY),
    ],
)
def test_the_content_type_decides_how_a_body_is_read(body: Body, content_type: bytes | None, reader: Body) -> None:
    assert Endpoint("/v1/x", "POST", body=body).reader(content_type) is reader


@pytest.mark.parametrize("content_type", [None, b"", b"text/plain", b"multipart/mixed; boundary=x", b"form-data"])
def test_a_form_s_route_refuses_a_body_of_another_type(content_type: bytes | None) -> None:
    with pytest.raises(InvalidRequest, match="multipart/form-data") as refusal:
        match("POST", b"/v1/audio/transcriptions").reader(content_type)
    assert refusal.value.code == "unsupported_content_type"


def test_what_is_free_passes_without_a_look_at_its_body() -> None:
    upload = Routes(["POST /v1/files"]).match("POST", b"/v1/files")
    assert upload.reader(b"multipart/form-data; boundary=x") is Body.ANY


def test_the_agent_layer_s_route_is_one_of_them() -> None:
    assert CHAT_COMPLETIONS in ENDPOINTS


def test_the_table_names_each_route_once() -> None:
    routes = [(one.method, one.name) for one in ROUTES]
    assert len(routes) == len(set(routes))
    assert set(ENDPOINTS) == {one for one in ROUTES if one.access is Access.SERVED}
    assert set(OWNED_ROUTES) == {one for one in ROUTES if one.access is Access.OWNED}
    assert all(bool(one.why) == (one.access in (Access.REFUSED, Access.UNMETERED)) for one in ROUTES)


def test_what_is_a_tenant_s_own_is_free_and_its_bodies_are_looked_through() -> None:
    assert not [one for one in OWNED_ROUTES if one.metered or not one.signs or one.keeps is None]
    assert {one.body for one in OWNED_ROUTES if one.method == "POST"} == {Body.JSON}


@pytest.mark.parametrize("pattern", ["GET /v1/responses/*", "* /v1/responses/*", "* /v1/*"])
def test_an_operator_can_open_to_all_what_is_otherwise_a_tenant_s_own(pattern: str) -> None:
    assert match("GET", b"/v1/responses/resp_1").access is Access.OWNED
    assert Routes([pattern]).match("GET", b"/v1/responses/resp_1").access is Access.SERVED


@pytest.mark.parametrize("route", ROUTES, ids=lambda one: f"{one.method} {one.name}")
def test_with_an_account_of_its_own_a_caller_has_all_but_what_would_go_past_the_meter(route: Endpoint) -> None:
    method = "PATCH" if route.method == "*" else route.method
    path = re.sub(r"\{\w+\}|\*", "abc", route.name).encode()
    if route.access is Access.UNMETERED:
        with pytest.raises(NotMeterable):
            Routes([]).match(method, path, own_account=True)
    else:
        found = Routes([]).match(method, path, own_account=True)
        assert (found.name, found.method, found.access) == (route.name, method, Access.SERVED)
        assert (found.body, found.metered) == (route.body, route.metered)


@pytest.mark.parametrize(("method", "path"), [("POST", b"/v1/rerank"), ("PUT", b"/v1/files"), ("GET", b"/v1/batches/")])
def test_also_with_an_account_of_its_own_what_nobody_knows_is_refused(method: str, path: bytes) -> None:
    with pytest.raises((UnknownRoute, MethodNotAllowed, InvalidRequest)):
        Routes([]).match(method, path, own_account=True)


def test_a_refusal_says_why_and_how_the_operator_can_allow_it() -> None:
    with pytest.raises(RouteRefused) as refusal:
        match("GET", b"/v1/chat/completions/chatcmpl-1/messages")
    assert (refusal.value.status, refusal.value.code) == (403, "route_not_allowed")
    assert "upstream account share" in str(refusal.value)
    assert '"GET /v1/chat/completions/*/messages" in TOLLGATE_SERVER__ALLOW_ROUTES' in str(refusal.value)


@pytest.mark.parametrize("route", [one for one in ROUTES if one.access is Access.REFUSED], ids=lambda one: one.name)
def test_what_a_refusal_says_to_allow_is_what_allows_it(route: Endpoint) -> None:
    path = re.sub(r"\{\w+\}|\*", "abc", route.name).encode()
    method = "PATCH" if route.method == "*" else route.method
    with pytest.raises(RouteRefused) as refusal:
        match(method, path)
    pattern = re.findall('"([^"]+)"', str(refusal.value))[0]
    endpoint = Routes([pattern]).match(method, path)
    assert (endpoint.name, endpoint.method, endpoint.access) == (route.name, method, Access.SERVED)
    assert (endpoint.body, endpoint.metered) == (route.body, route.metered)
    with pytest.raises(MethodNotAllowed if method != "PATCH" else RouteRefused):
        Routes([pattern]).match("HEAD", path)


@pytest.mark.parametrize(
    "path",
    [b"/v1/realtime", b"/v1/realtime/sessions", b"/v1/realtime/client_secrets", b"/v1/chatkit/sessions"],
)
def test_what_would_go_past_the_meter_is_not_supported_whatever_the_operator_allows(path: bytes) -> None:
    for routes in (Routes([]), Routes(["* /v1/*", "POST /v1/*/sessions"])):
        with pytest.raises(NotMeterable, match="past the meter") as refusal:
            routes.match("POST", path)
        assert (refusal.value.status, refusal.value.code) == (501, "not_supported")


@pytest.mark.parametrize("path", [b"/v1/realtime/new", b"/v1/Realtime/sessions", b"/v1/chatkit/sessions/x/extend"])
def test_what_is_added_below_a_session_s_route_is_not_supported_either(path: bytes) -> None:
    with pytest.raises(NotMeterable):
        Routes(["* /v1/*"]).match("POST", path)
    with pytest.raises(UnknownRoute):
        match("POST", path)


@pytest.mark.parametrize(
    ("pattern", "method", "path", "name"),
    [
        ("POST /v1/rerank", "POST", b"/v1/rerank", "/v1/rerank"),
        ("* /v1/rerank", "PATCH", b"/v1/rerank", "/v1/rerank"),
        ("POST  /v1/ocr/*", "POST", b"/v1/ocr/a/b", "/v1/ocr/*"),
        ("POST /v1/ocr/*/pages", "POST", b"/v1/ocr/a%3Ab/pages", "/v1/ocr/*/pages"),
        ("POST /v1/models/*", "POST", b"/v1/models/load", "/v1/models/*"),
    ],
)
def test_an_unknown_route_that_the_operator_allows_is_metered_by_its_pattern(
    pattern: str, method: str, path: bytes, name: str
) -> None:
    endpoint = Routes([pattern]).match(method, path)
    assert endpoint == Endpoint(name, method, metered=True, body=Body.ANY, counts=Counts.TOKENS)
    assert access("POST", "rerank") != "metered"


@pytest.mark.parametrize(
    ("pattern", "method", "path"),
    [
        ("POST /v1/rerank", "GET", b"/v1/rerank"),
        ("POST /v1/rerank", "POST", b"/v1/rerank/x"),
        ("POST /v1/rerank/*", "POST", b"/v1/rerank"),
        ("POST /v1/*/x", "POST", b"/v1/a/b/x"),
        ("POST /v1/a.c", "POST", b"/v1/abc"),
        ("* /v1/*", "HEAD", b"/v1/rerank"),
        ("* /v1/*", "CONNECT", b"/v1/rerank"),
        ("* /v1/*", "post", b"/v1/rerank"),
    ],
)
def test_a_pattern_allows_no_more_than_it_says(pattern: str, method: str, path: bytes) -> None:
    with pytest.raises(UnknownRoute):
        Routes([pattern]).match(method, path)


def test_what_the_operator_allows_is_among_the_methods_that_may_be_used() -> None:
    with pytest.raises(MethodNotAllowed) as refusal:
        Routes(["GET /v1/chat/completions"]).match("PUT", b"/v1/chat/completions")
    assert refusal.value.allow == "POST, GET"


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
@pytest.mark.parametrize("path", ["chat/completions", "audio/speech"])
def test_a_generation_is_not_to_be_had_past_its_own_rule(method: str, path: str) -> None:
    routes = Routes(["* /v1/*"])
    with pytest.raises(MethodNotAllowed):
        routes.match(method, b"/v1/" + path.encode())
    for spelled in (path.upper(), path.capitalize()):
        with pytest.raises(UnknownRoute):
            routes.match("POST", b"/v1/" + spelled.encode())


@pytest.mark.parametrize(
    "pattern",
    [
        *("", "POST", "/v1/rerank", "POST /rerank", "POST /v2/rerank", "POST /v1", "POST /v1/", "POST /v1//a"),
        *("post /v1/rerank", "HEAD /v1/rerank", "GET,POST /v1/a", "GET /v1/a/", "GET /v1/a*", "GET /v1/**"),
        *("GET /v1/../admin", "GET /v1/./a", "GET /v1/a/..", "GET /v1/%66iles", "GET /v1/a?b=c", "GET /v1/{id}"),
        *("GET https://api.openai.com/v1/files", "GET /v1/files # all", "GET /v1/ü"),
    ],
)
def test_a_pattern_of_another_form_stops_the_start_and_is_named(pattern: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        Routes(["GET /v1/files", pattern])
    assert f"'{pattern}'" in str(error.value)
    assert "POST /v1/rerank" in str(error.value)


@pytest.mark.parametrize("pattern", ["POST /v1/realtime/sessions", "* /v1/realtime/*", "POST /v1/chatkit/sessions"])
def test_a_pattern_for_what_would_go_past_the_meter_stops_the_start(pattern: str) -> None:
    with pytest.raises(ConfigurationError, match="past the meter"):
        Routes([pattern])
