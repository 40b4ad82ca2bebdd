"""HTTPS_PROXY: the tunnel that is asked for, and what a proxy may answer."""

from __future__ import annotations

import base64
import ssl
import time

import pytest
import trustme

from proxy.errors import ConfigurationError, ConnectFailed
from proxy.upstream.connect import Origin
from tests.scripted import Peer, Script, ScriptedUpstream, answers
from tests.upstream.asking import ask, pool_for

UPSTREAM = "https://api.test/v1"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


def tunnels(authority: trustme.CA, reply: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n") -> Script:
    """A proxy that opens the tunnel, and the upstream at its other end in one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("api.test", "::1").configure_cert(context)

    def script(peer: Peer) -> None:
        peer.read_body(peer.read_head())
        peer.send(reply)
        peer.start_tls(context)
        answers(peer)

    return script


@pytest.mark.parametrize(
    ("upstream", "target"),
    [
        ("https://api.test/v1", "api.test:443"),
        ("https://api.test:8443/v1", "api.test:8443"),
        ("https://[::1]/v1", "[::1]:443"),
    ],
)
async def test_an_https_upstream_is_reached_through_the_tunnel(
    authority: trustme.CA, ca_file: str, monkeypatch: pytest.MonkeyPatch, upstream: str, target: str
) -> None:
    """The proxy sees where to, and nothing else; the upstream's name is checked at the other end."""
    with ScriptedUpstream(tunnels(authority)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        async with pool_for(upstream, ca_file=ca_file) as pool:
            assert (await ask(pool)).status == 200
            assert (await ask(pool)).status == 200
    connect, *requests = proxy.requests
    assert connect.head == f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode()
    assert [request.target for request in requests] == ["/v1/x", "/v1/x"]
    assert requests[0].headers["host"] == target.removesuffix(":443")
    assert proxy.counts.accepted == 1


async def test_the_proxy_gets_its_credentials_and_the_upstream_does_not(
    authority: trustme.CA, ca_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Percent-encoded in the URL, Basic on the wire."""
    with ScriptedUpstream(tunnels(authority, b"HTTP/1.0 200 OK\r\nvia: x\r\n\r\n")) as proxy:
        monkeypatch.setenv("https_proxy", f"http://us%40er:p%3Ass%20@127.0.0.1:{proxy.port}")
        async with pool_for(UPSTREAM, ca_file=ca_file) as pool:
            await ask(pool)
    expected = base64.b64encode(b"us@er:p:ss ").decode()
    assert proxy.requests[0].headers["proxy-authorization"] == f"Basic {expected}"
    assert "proxy-authorization" not in proxy.requests[1].headers


async def test_a_wrong_certificate_at_the_other_end_is_refused(
    authority: trustme.CA, ca_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy is not trusted to reach the right one."""
    with ScriptedUpstream(tunnels(authority)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        async with pool_for("https://other.test", ca_file=ca_file) as pool:
            with pytest.raises(ConnectFailed, match="certificate"):
                await ask(pool)
        await proxy.until_all_closed()


REFUSED = b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 5\r\n\r\nhello"


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (REFUSED, "refused to connect: status 407"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "status 502"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "status 100"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "no valid answer"),
        (b"HTTP/2 200 OK\r\n\r\n", "no valid answer"),
        (b"SSH-2.0-x\r\n\r\n", "no valid answer"),
        (b"\x00" * 20000, "no valid answer"),
        (b"HTTP/1.1 200 OK\r\n\r\nextra", "more than its answer"),
        (b"HTTP/1.1 200 OK\r\n\r\n\r\n\r\n", "more than its answer"),
    ],
)
async def test_a_proxy_that_does_not_open_the_tunnel_is_a_failed_connection(
    ca_file: str, monkeypatch: pytest.MonkeyPatch, reply: bytes, message: str
) -> None:
    """The message says what it answered, by number: its words are not for tenants."""

    def refuses(peer: Peer) -> None:
        peer.read_head()
        peer.send(reply)

    with ScriptedUpstream(refuses) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        async with pool_for(UPSTREAM, ca_file=ca_file) as pool:
            with pytest.raises(ConnectFailed, match=message):
                await ask(pool)
            assert pool.connections == 0
        await proxy.until_all_closed(accepted=1)


@pytest.mark.parametrize("how", [Peer.close, Peer.reset, Peer.stall])
async def test_a_proxy_that_breaks_off_or_stalls_is_a_failed_connection(
    ca_file: str, monkeypatch: pytest.MonkeyPatch, how: Script
) -> None:
    """Within the connect timeout."""

    def breaks(peer: Peer) -> None:
        peer.read_head()
        peer.send(b"HTTP/1.1 200")
        how(peer)

    with ScriptedUpstream(breaks) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        async with pool_for(UPSTREAM, ca_file=ca_file, connect_timeout_s=0.3) as pool:
            start = time.monotonic()
            with pytest.raises(ConnectFailed):
                await ask(pool)
            assert time.monotonic() - start < 2
        await proxy.until_all_closed(accepted=1)


@pytest.mark.parametrize("exempt", ["api.test", ".test", "other.test,api.test", "*", "api.test:443", "API.TEST"])
def test_no_proxy_is_honoured(monkeypatch: pytest.MonkeyPatch, exempt: str) -> None:
    """By name, by suffix, by port, for all."""
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.test:3128")
    monkeypatch.setenv("NO_PROXY", exempt)
    assert Origin.parse(UPSTREAM).tunnel is None


@pytest.mark.parametrize("exempt", ["", "other.test", "i.test", "api.test:8443"])
def test_no_proxy_exempts_only_what_it_names(monkeypatch: pytest.MonkeyPatch, exempt: str) -> None:
    """A name that merely ends alike is another name."""
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.test:3128")
    monkeypatch.setenv("NO_PROXY", exempt)
    tunnel = Origin.parse(UPSTREAM).tunnel
    assert tunnel is not None
    assert (tunnel.host, tunnel.port, tunnel.authorization) == ("proxy.test", 3128, "")


@pytest.mark.parametrize(
    ("value", "host", "port"),
    [("proxy.test:3128", "proxy.test", 3128), ("http://proxy.test", "proxy.test", 80), ("http://[::1]:1/", "::1", 1)],
)
def test_a_proxy_is_named_by_url_or_by_host_and_port(
    monkeypatch: pytest.MonkeyPatch, value: str, host: str, port: int
) -> None:
    """Both are seen in the wild."""
    monkeypatch.setenv("HTTPS_PROXY", value)
    tunnel = Origin.parse(UPSTREAM).tunnel
    assert tunnel is not None
    assert (tunnel.host, tunnel.port) == (host, port)


@pytest.mark.parametrize("value", ["https://user:hunter2@proxy.test", "socks5://proxy.test", "http://", "http://h:x"])
def test_a_proxy_that_cannot_be_used_stops_the_start(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """The message names the variable, and never a password."""
    monkeypatch.setenv("HTTPS_PROXY", value)
    with pytest.raises(ConfigurationError, match=r"^HTTPS_PROXY: ") as caught:
        Origin.parse(UPSTREAM)
    assert "hunter2" not in str(caught.value)


async def test_an_http_upstream_is_not_tunnelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model server next door is reached directly."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with ScriptedUpstream() as upstream:
        async with pool_for(upstream) as pool:
            assert (await ask(pool)).status == 200
