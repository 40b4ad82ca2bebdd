from __future__ import annotations

import csv
import re
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import InvalidRequest, MethodNotAllowed, UnknownRoute
from proxy.wire.endpoints import CHAT_COMPLETIONS, ENDPOINTS, Endpoint, match

ROUTES = Path(__file__).parent.parent.parent.parent / "shared" / "contracts" / "openai-routes.tsv"
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "get", "")


@pytest.mark.parametrize(
    ("method", "path", "name", "metered", "usage_on_request"),
    [
        ("POST", b"/v1/chat/completions", "/v1/chat/completions", True, True),
        ("POST", b"/v1/completions", "/v1/completions", True, True),
        ("POST", b"/v1/responses", "/v1/responses", True, False),
        ("POST", b"/v1/embeddings", "/v1/embeddings", True, False),
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


def test_the_agent_layer_s_route_is_one_of_them() -> None:
    assert CHAT_COMPLETIONS in ENDPOINTS


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.name)
def test_every_other_method_is_refused_with_the_one_that_is_served(endpoint: Endpoint) -> None:
    path = endpoint.name.replace("{model}", "m").encode()
    for method in set(METHODS) - {endpoint.method}:
        with pytest.raises(MethodNotAllowed) as refusal:
            match(method, path)
        assert refusal.value.allow == endpoint.method


@pytest.mark.skipif(not ROUTES.is_file(), reason=f"the list of OpenAI's routes is not here: {ROUTES}")
def test_every_route_of_openai_that_is_not_served_is_refused() -> None:
    with ROUTES.open(newline="") as lines:
        routes = {(row["method"], row["path"].partition("?")[0]) for row in csv.DictReader(lines, delimiter="\t")}
    served = {(endpoint.method, endpoint.name) for endpoint in ENDPOINTS}
    refused = [(method, path) for method, path in routes if (method, "/v1" + path) not in served]
    assert len(routes) - len(refused) == len(served)
    for method, path in refused:
        with pytest.raises((UnknownRoute, MethodNotAllowed)):
            match(method, b"/v1" + re.sub(r"\{\w+\}", "abc", path).encode())


@pytest.mark.parametrize(
    "path",
    [
        *(b"/v1/../admin", b"/v1/models/..", b"/v1/models/.", b"/v1/models/../files", b"/v1/models/a/../b"),
        *(b"/v1/%2e%2e/admin", b"/v1/models/%2e%2E", b"/v1/models/.%2e/files", b"/v1/models/%2e"),
        *(b"/v1/models/a%2f..%2ffiles", b"/v1/models/..%2ffiles", b"/v1/models/a%2f%2e%2e"),
        *(b"//v1/models", b"/v1//models", b"/v1/models//a", b"/v1/models/a/", b"/v1/models/", b"/v1/models/%2f"),
        *(b"/v1%2fmodels", b"/v1/chat%2Fcompletions", b"/v1/files%2f..%2fmodels", b"/v1/models%2Fa"),
        *(
            b"/v1/models/a%252fb",
            b"/v1/models/%252e%252e",
            b"/v1/models/%25252e",
            b"/v1/models/100%",
            b"/v1/models/%zz",
        ),
        *(b"/v1/models/a\\b", b"/v1/models/a%5c..%5cfiles", b"/v1/models/..%5c", b"/v1\\models"),
        *(b"/v1/models/a\0", b"/v1/models/a%00", b"/v1/models/a%0d%0ax", b"/v1/models/a%20b", b"/v1/models/%7f"),
        *(b"/v1/models/\xc3\xa9", b"/v1/models/%c3%a9", b"/v1/models/%ff", b"/v1/models/%ef%bc%8e"),
        *(b"/v1/models/..;/files", b"/v1/models/a;b", b"/v1/models/%3b", b"/v1/models/a%3fb", b"/v1/models/a%23b"),
        *(b"", b"/", b"*", b"v1/models", b"http://other/v1/models", b"/v1", b"/v1/", b"/v2/models", b"/v1/modelsx"),
        *(b"/v1/chat/completions/", b"/v1/chat/completions/x", b"/V1/models", b"/v1/Models", b"/v1/files"),
        *(b"/v1/chat/%63ompletions", b"/v1/responses/resp_1", b"/v1/responses/input_tokens", b"/v1/realtime/sessions"),
    ],
)
def test_a_path_that_is_not_plainly_a_served_route_is_refused(path: bytes) -> None:
    for method in ("GET", "POST"):
        with pytest.raises((UnknownRoute, InvalidRequest)) as refusal:
            match(method, path)
        assert refusal.value.status in (400, 404)
        assert str(refusal.value).isprintable()


TRICKS = st.sampled_from(
    [*"./\\%;?#:", "..", "%2e", "%2E", "%2f", "%5c", "%25", "252e", "%252f", "%00", "a", "ft:x", "models", "é"]
)


@given(st.lists(TRICKS | st.characters(), max_size=10))
def test_no_accepted_path_holds_a_dot_segment_however_often_it_is_decoded(parts: list[str]) -> None:
    path = b"/v1/models/" + "".join(parts).encode("utf-8", "replace")
    try:
        match("GET", path)
    except (UnknownRoute, InvalidRequest):
        return
    for _ in range(5):
        segments = re.split(rb"[/\\]", path)[1:]
        assert not [segment for segment in segments if segment.split(b";")[0] in (b"", b".", b"..")]
        path = unquote_to_bytes(path)
