from __future__ import annotations

import pytest

from proxy.wire import headers as header
from proxy.wire.headers import CREDENTIALS, HOP_BY_HOP, Headers

ACCEPTS_NOTHING = (b"accept-encoding", b"identity")


def up(*headers: tuple[bytes, bytes], identity: bool = False) -> Headers:
    return header.for_upstream(headers, identity=identity)


@pytest.mark.parametrize("name", sorted(HOP_BY_HOP))
def test_a_hop_by_hop_header_passes_neither_way(name: bytes) -> None:
    assert up((name, b"x")) == [ACCEPTS_NOTHING]
    assert header.for_client([(name, b"x")]) == []


@pytest.mark.parametrize(
    "name",
    [
        *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection"),
        *(b"te", b"trailer", b"transfer-encoding", b"upgrade"),
    ],
)
def test_every_header_that_rfc_9110_names_is_hop_by_hop(name: bytes) -> None:
    assert name in HOP_BY_HOP


@pytest.mark.parametrize("value", [b"X-Private, close", b"close,x-private", b" x-PRIVATE "])
def test_a_header_that_connection_names_passes_neither_way(value: bytes) -> None:
    headers = [(b"connection", value), (b"x-private", b"1"), (b"x-other", b"2")]
    assert up(*headers) == [(b"x-other", b"2"), ACCEPTS_NOTHING]
    assert header.for_client(headers) == [(b"x-other", b"2")]


def test_a_header_named_by_a_second_connection_header_does_not_pass() -> None:
    headers = [(b"connection", b"close"), (b"x-private", b"1"), (b"connection", b"x-private")]
    assert header.for_client(headers) == []


@pytest.mark.parametrize("name", [b"accept", b"content-type", b"content-encoding"])
def test_connection_cannot_take_away_what_the_body_is(name: bytes) -> None:
    headers = [(b"connection", name), (name, b"x")]
    assert (name, b"x") in up(*headers)
    assert header.for_client(headers) == [(name, b"x")]


@pytest.mark.parametrize("name", sorted(CREDENTIALS))
def test_a_client_s_credential_never_reaches_the_upstream(name: bytes) -> None:
    assert up((name, b"tg_secret")) == [ACCEPTS_NOTHING]


@pytest.mark.parametrize("name", [b"authorization", b"x-api-key", b"api-key", b"cookie", b"openai-organization"])
def test_every_way_to_name_an_account_is_a_credential(name: bytes) -> None:
    assert name in CREDENTIALS


def test_our_own_headers_pass_neither_way() -> None:
    headers = [(b"x-tollgate-subject", b"user-1"), (b"x-tollgate-request-id", b"forged"), (b"x-tollgat", b"1")]
    assert up(*headers) == [(b"x-tollgat", b"1"), ACCEPTS_NOTHING]
    assert header.for_client(headers) == [(b"x-tollgat", b"1")]


@pytest.mark.parametrize("name", [b"host", b"content-length", b"expect"])
def test_what_is_written_anew_for_the_upstream_does_not_pass(name: bytes) -> None:
    assert up((name, b"x")) == [ACCEPTS_NOTHING]


def test_everything_else_passes_in_order_and_as_often_as_it_came() -> None:
    headers = [(b"x-b", b"1"), (b"openai-beta", b"a"), (b"x-b", b"\xff "), (b"idempotency-key", b"k"), (b"x-b", b"1")]
    assert up(*headers) == [*headers, ACCEPTS_NOTHING]
    answer = [(b"set-cookie", b"a=1"), (b"x-request-id", b"req_1"), (b"set-cookie", b"b=2"), (b"content-length", b"3")]
    assert header.for_client(answer) == answer


def test_what_a_rewritten_answer_can_no_longer_say_is_left_out() -> None:
    answer = [(b"content-length", b"3"), (b"content-type", b"text/event-stream")]
    assert header.for_client(answer, without=frozenset({b"content-length"})) == answer[1:]


@pytest.mark.parametrize(
    ("accepted", "offered"),
    [
        ([b"gzip, deflate"], b"gzip, deflate"),
        ([b"gzip, deflate, br, zstd"], b"gzip, deflate"),
        ([b"br;q=1.0, GZIP;q=0.8, *;q=0.1"], b"GZIP;q=0.8"),
        ([b"gzip;q=0.5,identity"], b"gzip;q=0.5, identity"),
        ([b"gzip", b"br", b"deflate"], b"gzip, deflate"),
        ([b"gzip, identity;q=0"], b"gzip, identity;q=0"),
        ([b"br, identity;q=0"], b"identity"),
        ([b"gzip;q=0, deflate; q=0.000, *"], b"identity"),
        ([b"br"], b"identity"),
        ([b"*"], b"identity"),
        ([b""], b"identity"),
        ([b",,"], b"identity"),
        ([], b"identity"),
    ],
)
def test_only_codings_that_can_be_read_are_offered_on(accepted: list[bytes], offered: bytes) -> None:
    assert up(*[(b"accept-encoding", value) for value in accepted]) == [(b"accept-encoding", offered)]


def test_an_answer_that_will_be_rewritten_is_asked_for_plain() -> None:
    assert up((b"accept-encoding", b"gzip"), identity=True) == [ACCEPTS_NOTHING]


def test_get_gives_the_first_value() -> None:
    assert header.get([(b"a", b"1"), (b"b", b"2"), (b"b", b"3")], b"b") == b"2"
    assert header.get([], b"b") is None


@pytest.mark.parametrize(
    "name", ["x-http-method", "x-http-method-override", "x-method-override", "x-original-url", "x-rewrite-url"]
)
def test_no_header_makes_a_request_one_of_another_method_or_path(name: str) -> None:
    assert up((name.encode(), b"DELETE")) == [ACCEPTS_NOTHING]


def test_an_idempotency_key_is_its_tenant_s_own_and_the_same_each_time() -> None:
    headers = [(b"accept", b"*/*"), (b"idempotency-key", b"order-1")]
    own, again, other = (header.for_tenant(headers, subject) for subject in ("acme", "acme", "other"))
    assert own == again
    assert len({value for _, value in (headers[1], own[1], other[1])}) == 3
    assert own[0] == headers[0]
    # A subject and a key that read the same together are not the same.
    assert header.for_tenant([(b"idempotency-key", b"b:c")], "a") != header.for_tenant(
        [(b"idempotency-key", b"c")], "a:b"
    )
    assert header.for_tenant(headers[:1], "acme") == headers[:1]
