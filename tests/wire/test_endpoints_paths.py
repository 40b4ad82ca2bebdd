"""Paths that servers read in different ways, and every spelling of those that are served."""

from __future__ import annotations

import re
from contextlib import suppress
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import InvalidRequest, ProxyError, UnknownRoute
from proxy.wire.endpoints import Routes, match
from tests.wire.test_endpoints import METHODS, access

HOSTILE = [
    *(b"/v1/../admin", b"/v1/models/..", b"/v1/models/.", b"/v1/models/../files", b"/v1/models/a/../b"),
    *(b"/v1/%2e%2e/admin", b"/v1/models/%2e%2E", b"/v1/models/.%2e/files", b"/v1/models/%2e"),
    *(b"/v1/models/a%2f..%2ffiles", b"/v1/models/..%2ffiles", b"/v1/models/a%2f%2e%2e"),
    *(b"//v1/models", b"/v1//models", b"/v1/models//a", b"/v1/models/a/", b"/v1/models/", b"/v1/models/%2f"),
    *(b"/v1%2fmodels", b"/v1/chat%2Fcompletions", b"/v1/files%2f..%2fmodels", b"/v1/models%2Fa"),
    *(b"/v1/models/a%252fb", b"/v1/models/%252e%252e", b"/v1/models/%25252e", b"/v1/models/100%", b"/v1/models/%zz"),
    *(b"/v1/models/a\\b", b"/v1/models/a%5c..%5cfiles", b"/v1/models/..%5c", b"/v1\\models"),
    *(b"/v1/models/a\0", b"/v1/models/a%00", b"/v1/models/a%0d%0ax", b"/v1/models/a%20b", b"/v1/models/%7f"),
    *(b"/v1/models/\xc3\xa9", b"/v1/models/%c3%a9", b"/v1/models/%ff", b"/v1/models/%ef%bc%8e"),
    *(b"/v1/models/..;/files", b"/v1/models/a;b", b"/v1/models/%3b", b"/v1/models/a%3fb", b"/v1/models/a%23b"),
    *(b"", b"/", b"*", b"v1/models", b"http://other/v1/models", b"/v1/"),
    *(b"/v1/chat/completions/", b"/v1/chat/%63ompletions", b"/v1/%66iles", b"/v1/files/a%2Fb", b"/v1/files/%61"),
    *(b"/v1/files/../models", b"/v1/files/..", b"/v1/files/%2e%2e/models", b"/v1/responses/%69nput_tokens"),
    *(b"/v1/re%61ltime/sessions", b"/v1/realtim%65/sessions", b"/v1/input%5Ftokens", b"/v1/a%2Db", b"/v1/%7Ea"),
]
UNKNOWN = [
    *(b"/v1", b"/v2/models", b"/v1/modelsx", b"/V1/models", b"/v1/Models", b"/v1/Files", b"/v1/chat", b"/v1/edits"),
    *(b"/v1/chat/completions/x/y", b"/v1/responses/a/b/c", b"/v1/engines/davinci/completions", b"/v1/files:x"),
    *(b"/v1/{id}", b"/v1/*", b"/v1/organization", b"/v1/embeddings.json", b"/v1/chat/completions.", b"/v1/realtimex"),
]


@pytest.mark.parametrize("path", HOSTILE)
def test_a_path_that_servers_read_in_different_ways_is_refused_whatever_the_operator_allows(path: bytes) -> None:
    for routes in (Routes([]), Routes(["* /v1/*"])):
        for method in ("GET", "POST"):
            with pytest.raises(InvalidRequest) as refusal:
                routes.match(method, path)
            assert refusal.value.code == "invalid_path"


@pytest.mark.parametrize("path", UNKNOWN)
def test_a_path_that_is_no_route_is_unknown(path: bytes) -> None:
    for method in ("GET", "POST"):
        with pytest.raises(UnknownRoute) as refusal:
            match(method, path)
        assert refusal.value.status == 404
        assert str(refusal.value).isprintable()


TRICKS = st.sampled_from(
    [*"./\\%;?#:*{}", "..", "%2e", "%2E", "%2f", "%5c", "%25", "252e", "%252f", "%00", "a", "ft:x", "models", "é", "%6"]
)
KNOWN_PARTS = st.sampled_from(
    ["files", "chat", "completions", "responses", "input_tokens", "realtime", "sessions", "audio", "%66iles", "Chat"]
)


@given(st.lists(TRICKS | st.characters(), max_size=10))
def test_no_accepted_path_holds_a_dot_segment_however_often_it_is_decoded(parts: list[str]) -> None:
    path = b"/v1/models/" + "".join(parts).encode("utf-8", "replace")
    try:
        match("GET", path)
    except (UnknownRoute, InvalidRequest):
        return
    assert_without_dot_segments(path)


def assert_without_dot_segments(path: bytes) -> None:
    for _ in range(5):
        segments = re.split(rb"[/\\]", path)[1:]
        assert not [segment for segment in segments if segment.split(b";")[0] in (b"", b".", b"..")]
        path = unquote_to_bytes(path)


@given(st.lists(TRICKS | KNOWN_PARTS | st.just("/"), max_size=10), st.sampled_from(METHODS))
def test_no_spelling_of_a_path_is_served_otherwise_than_the_path_itself(parts: list[str], method: str) -> None:
    path = b"/v1/" + "".join(parts).encode()
    everything = Routes(["* /v1/*"])
    with suppress(ProxyError):
        endpoint = everything.match(method, path)
        assert_without_dot_segments(path)
        assert method in ("GET", "POST", "PUT", "PATCH", "DELETE")
        # However a server decodes or folds it, the path falls under the same rule.
        plain = unquote_to_bytes(path) if not path.startswith(b"/v1/models/") else path
        for other in {plain, plain.lower()} - {path}:
            with suppress(ProxyError):
                assert everything.match(method, other) == endpoint
            if endpoint.name == "/v1/*":
                assert access(method, other.decode()[4:]) not in ("metered", "free", "403", "501")
