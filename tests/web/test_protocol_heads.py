"""What is no request, or more than one reading of one: it is refused with the reason, and reaches no application."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.running import wait_until
from tests.web.answering import CHUNKED, GET, Server, answers, refused, running


@pytest.fixture(scope="module")
def lasting() -> Iterator[Server]:
    with running() as server:
        yield server


@pytest.fixture
def server(lasting: Server) -> Iterator[Server]:
    yield lasting
    lasting.app.go_on.set()
    lasting.forget()


# Bounds


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("piece", [b"x" * 1_000, b"x-y: z\r\n" * 125], ids=["one header", "many"])
def test_a_head_beyond_the_bound_is_431(server: Server, piece: bytes, ended: bool) -> None:
    with server.client() as client:
        client.send(b"GET / HTTP/1.1\r\nhost: t\r\nx-first: " + (piece if piece[1:2] == b"x" else b"1\r\n" + piece))
        for _ in range(66):
            client.send(piece)
        client.send(b"\r\n\r\n" if ended else piece * 300)
        refused(client.read_to_end(), 431, "request_headers_too_large", "65536 bytes")
    server.serves()
    assert [scope["raw_path"] for scope in server.app.heard] == [b"/good"]


def test_a_head_within_the_bound_is_served(server: Server) -> None:
    with server.client() as client:
        client.send(b"GET /a HTTP/1.1\r\nhost: t\r\nx: " + b"y" * 65_000)
        client.send(b"\r\n\r\n")
        client.read_until(b"a:")


def test_trailers_are_no_headers(server: Server) -> None:
    with server.client() as client:
        client.send(CHUNKED % b"a" + b"2\r\nhi\r\n0\r\nauthorization: Bearer x\r\nhost: u\r\n\r\n")
        client.read_until(b"a:hi")
        client.send(GET % b"b")
        client.read_until(b"b:")
    first, second = server.app.heard
    assert first["headers"] == [(b"host", b"t"), (b"transfer-encoding", b"chunked")]
    assert second["headers"] == [(b"host", b"t")]


@pytest.mark.parametrize("piece", [b"x: y\r\n" * 2_000, b"x" * 12_000], ids=["many", "one"])
@pytest.mark.parametrize("start", [b"2\r\nhi\r\n0\r\n", b"0\r\nx: ", b"2;"], ids=["trailers", "a trailer", "extension"])
def test_what_surrounds_a_body_has_the_bound_of_a_head(server: Server, start: bytes, piece: bytes) -> None:
    if start == b"2;":
        piece = piece.replace(b"\r\n", b";").replace(b": ", b"=")
    with server.client() as client:
        client.send(CHUNKED % b"a" + start)
        for _ in range(50):
            client.send(piece)
        refused(client.read_to_end(), 431, "request_headers_too_large", "65536 bytes")
        wait_until(lambda: server.app.gone == [b"a"])


def test_many_small_chunks_are_a_body_like_any_other(server: Server) -> None:
    with server.client() as client:
        client.send(CHUNKED % b"a" + b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n")
        client.read_until(b"a:" + b"x" * 20_000)


# What is no HTTP, or more than one reading of it


@pytest.mark.parametrize(
    ("said", "word"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "method"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "method"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "PRI"),
        (b"GET /\r\n\r\n", "version"),
        (b"GET / HTTP/2.0\r\nhost: t\r\n\r\n", "version"),
        (b"GET / HTTP/1.2\r\nhost: t\r\n\r\n", "version"),
        (b"GET / HTTP/1.1\r\n\r\n", "Host"),
        (b"GET / HTTP/1.1\r\nhost: t\r\nhost: t\r\n\r\n", "Host"),
        (b"GET / HTTP/1.0\r\nhost: t\r\nHost: u\r\n\r\n", "Host"),
        (b"GET / HTTP/1.1\r\nhost: t/../u\r\n\r\n", "Host"),
        (b"GET / HTTP/1.1\r\nhost: [::1\r\n\r\n", "Host"),
        (b"GET / HTTP/1.1\r\nhost: t, u\r\n\r\n", "Host"),
        (b"GET / HTTP/1.1\r\nhost: a@b\r\n\r\n", "Host"),
        (b"GET a HTTP/1.1\r\nhost: t\r\n\r\n", "url"),
        (b"GET ftp://t/ HTTP/1.1\r\nhost: t\r\n\r\n", "target"),
        (b"GET http://t HTTP/1.1\r\nhost: t\r\n\r\n", "target"),
        (b"GET http://t?x HTTP/1.1\r\nhost: t\r\n\r\n", "target"),
        (b"GET http://a:b@t/ HTTP/1.1\r\nhost: t\r\n\r\n", "target"),
        (b"GET http://t:x/ HTTP/1.1\r\nhost: t\r\n\r\n", "URL"),
        (b"GET /\xff HTTP/1.1\r\nhost: t\r\n\r\n", "url"),
        (b"GET /a b HTTP/1.1\r\nhost: t\r\n\r\n", "HTTP"),
    ],
    ids=lambda one: ascii(one)[:40],
)
def test_what_is_no_request_is_400_and_says_why(server: Server, said: bytes, word: str) -> None:
    with server.client() as client:
        client.send(said)
        refused(client.read_to_end(), 400, None, word)
    assert server.app.heard == []
    server.serves()


@pytest.mark.parametrize("host", [b"t", b"t:8000", b"[::1]:8000", b"", b"api_1.example.com", b"T%20"])
def test_a_host_is_any_host(server: Server, host: bytes) -> None:
    with server.client() as client:
        client.send(b"GET /a HTTP/1.1\r\nhost: %b\r\n\r\n" % host)
        client.read_until(b"a:")


def test_an_old_client_needs_no_host_and_is_answered_once(server: Server) -> None:
    with server.client() as client:
        client.send(b"GET /a HTTP/1.0\r\n\r\n" + GET % b"b")
        assert answers(client.read_to_end()) == [b"a:"]
    assert len(server.app.heard) == 1


@pytest.mark.parametrize("url", [b"http://t/a", b"HTTPS://u:443/a", b"/a#b"])
def test_a_whole_url_is_read_as_its_path(server: Server, url: bytes) -> None:
    with server.client() as client:
        client.send(b"GET %b HTTP/1.1\r\nhost: t\r\n\r\n" % url)
        client.read_until(b"a:")


def test_options_of_nothing_in_particular_is_a_request(server: Server) -> None:
    with server.client() as client:
        client.send(b"OPTIONS * HTTP/1.1\r\nhost: t\r\n\r\n")
        client.read_until(b":")
    assert [scope["raw_path"] for scope in server.app.heard] == [b"*"]


@pytest.mark.parametrize(
    "fields",
    [
        b"transfer-encoding: gzip, chunked",
        b"transfer-encoding: identity\r\ntransfer-encoding: chunked",
        b"transfer-encoding: xchunked",
        b"transfer-encoding: chunked, identity",
        b"transfer-encoding: chunked\r\ncontent-length: 5",
        b"content-length: 5\r\ntransfer-encoding: chunked",
        b"content-length: 5\r\ncontent-length: 5",
    ],
)
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_a_body_has_one_frame(server: Server, version: bytes, fields: bytes) -> None:
    with server.client() as client:
        client.send(b"POST /a HTTP/%b\r\nhost: t\r\n%b\r\n\r\n0\r\n\r\n" % (version, fields))
        refused(client.read_to_end(), 400, None)
    server.serves()
    assert [scope["raw_path"] for scope in server.app.heard] == [b"/good"]


def test_chunks_are_not_for_old_clients_and_may_be_spelled_in_capitals(server: Server) -> None:
    with server.client() as client:
        client.send(b"POST /a HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n")
        refused(client.read_to_end(), 400, None, "HTTP/1.1")
    with server.client() as client:
        client.send(b"POST /a HTTP/1.1\r\nhost: t\r\nTransfer-Encoding: Chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n")
        client.read_until(b"a:hi")


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_a_tunnel_is_405(server: Server, version: bytes) -> None:
    with server.client() as client:
        client.send(b"CONNECT t:443 HTTP/%b\r\nhost: t:443\r\n\r\nhello" % version)
        refused(client.read_to_end(), 405, "method_not_allowed", "CONNECT")


def test_a_body_that_cannot_be_read_is_400_and_the_application_hears_that_it_is_over(server: Server) -> None:
    with server.client() as client:
        client.send(CHUNKED % b"a" + b"2\r\nhi\r\n")
        wait_until(lambda: len(server.app.heard) == 1)
        client.send(b"zz\r\n")
        refused(client.read_to_end(), 400, None, "chunk size")
    wait_until(lambda: server.app.gone == [b"a"])
    wait_until(lambda: server.connections == server.tasks == 0)


def test_so_is_one_whose_client_waits_to_be_told_to_send_it(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is written to a connection that has had its last word: that would be an error of ours."""
    with server.client() as client:
        client.send((CHUNKED % b"a").replace(b"\r\n\r\n", b"\r\nexpect: 100-continue\r\n\r\n") + b"zz\r\n")
        refused(client.read_to_end(), 400, None, "chunk size")
    wait_until(lambda: server.app.gone == [b"a"])
    wait_until(lambda: server.tasks == 0)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


# Offers of other protocols


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])  # with the latter, each answer is the last
def test_an_offer_of_another_protocol_is_declined_and_the_request_served(server: Server, version: bytes) -> None:
    offer = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: x\r\n"
    post = b"POST /%b HTTP/%b\r\nhost: t\r\n%bcontent-length: 2\r\n\r\n%b"
    with server.client() as client:
        client.send(post % (b"a", version, offer, b"h"))
        wait_until(lambda: len(server.app.heard) == 1)
        client.send(b"i" + post % (b"b", version, offer, b"ho"))
        if version == b"1.0":
            assert answers(client.read_to_end()) == [b"a:hi"]
            return
        client.read_until(b"b:ho")
        client.send(b"GET /c HTTP/1.1\r\nhost: t\r\n%b\r\n" % offer + GET % b"d")
        assert answers(client.read_until(b"d:")) == [b"a:hi", b"b:ho", b"c:", b"d:"]
    assert all(name != b"upgrade" for scope in server.app.heard for name, _ in scope["headers"])
    assert all((b"host", b"t") in scope["headers"] for scope in server.app.heard)
