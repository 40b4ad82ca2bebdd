"""From a base URL to a connection: what it may say, which address is taken, what a failure says."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from proxy.errors import ConfigurationError, ConnectFailed
from proxy.upstream import connect
from proxy.upstream.connect import Origin, reason
from tests.scripted import ScriptedUpstream
from tests.upstream.asking import ask, pool_for


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("url", "host", "port", "path", "authority"),
    [
        ("https://api.openai.com/v1", "api.openai.com", 443, "/v1", b"api.openai.com"),
        ("https://api.openai.com/v1/", "api.openai.com", 443, "/v1", b"api.openai.com"),
        ("https://API.OpenAI.com", "api.openai.com", 443, "", b"api.openai.com"),
        ("https://host:8443/a/b", "host", 8443, "/a/b", b"host:8443"),
        ("http://host:80/", "host", 80, "", b"host"),
        ("http://host:443", "host", 443, "", b"host:443"),
        ("https://host:80", "host", 80, "", b"host:80"),
        ("http://my_service:8080/v1", "my_service", 8080, "/v1", b"my_service:8080"),
        ("http://[::1]:8000/v1", "::1", 8000, "/v1", b"[::1]:8000"),
        ("http://[::1]", "::1", 80, "", b"[::1]"),
    ],
)
def test_a_base_url_is_read(url: str, host: str, port: int, path: str, authority: bytes) -> None:
    """`Host` names the port unless it is the scheme's own, and an IPv6 address in brackets."""
    origin = Origin.parse(url)
    assert (origin.host, origin.port, origin.path, origin.authority) == (host, port, path, authority)
    assert origin.tunnel is None


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.openai.com/v1",
        "//api.openai.com",
        "ftp://host",
        "https://",
        "https:///v1",
        "http://:80",
        "https://host:99999",
        "https://host:0",
        "https://host:x",
        "https://host:-1",
        "http://[::1",
        "http://[nonsense]",
        "https://user:hunter2@host",
        "ftp://user:hunter2@host",
        "https://@host",
        "https://host/v1?a=b",
        "https://host/v1?",
        "https://host/v1#x",
        "https://ho st/",
        "https://host/v 1",
        "https://host/v1\r\nx: y",
        "https://host\n",
        "https://hôst/",
        "https://host/ü",
        "https://ho;st/",
        "https://a..b/",
        f"https://{'a' * 70}.test/",
    ],
)
def test_what_is_not_a_base_url_stops_the_start(url: str) -> None:
    """One line that names the key, and never a password."""
    with pytest.raises(ConfigurationError) as caught:
        Origin.parse(url)
    message = str(caught.value)
    assert message.startswith("upstream.base_url: ")
    assert "\n" not in message
    assert "hunter2" not in message


async def test_ipv6_works() -> None:
    """A literal address in brackets is dialled, and named in `Host`."""
    with ScriptedUpstream(host="::1") as upstream:
        async with pool_for(upstream) as pool:
            assert (await ask(pool)).status == 200
    assert upstream.requests[0].headers["host"] == f"[::1]:{upstream.port}"


def addresses(*hosts: str) -> object:
    async def resolve(_self: object, _host: str, port: int, **_: object) -> list[object]:
        found: list[object] = []
        for host in hosts:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            address = (host, port, 0, 0) if ":" in host else (host, port)
            found.append((family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address))
        return found

    return resolve


class Loop:
    """The running loop, with another name server."""

    def __init__(self, resolve: object) -> None:
        self._resolve = resolve

    def __getattr__(self, name: str) -> object:
        if name == "getaddrinfo":
            return self._resolve.__get__(self)  # type: ignore[attr-defined]
        return getattr(asyncio.get_event_loop_policy().get_event_loop(), name)


def resolving(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    class Asyncio:
        @staticmethod
        def get_running_loop() -> Loop:
            return Loop(addresses(*hosts))

    monkeypatch.setattr(connect, "asyncio", Asyncio)


@pytest.mark.parametrize("hosts", [("::1", "127.0.0.1"), ("127.0.0.1", "::1"), ("127.0.0.2", "::1", "127.0.0.1")])
async def test_where_one_address_refuses_another_is_taken(
    monkeypatch: pytest.MonkeyPatch, hosts: tuple[str, ...]
) -> None:
    """A name with several addresses is reachable as long as one of them is."""
    with ScriptedUpstream(host="127.0.0.1") as upstream:
        resolving(monkeypatch, *hosts)
        async with pool_for(f"http://name.test:{upstream.port}") as pool:
            assert (await ask(pool)).status == 200


async def test_where_every_address_refuses_the_failure_says_so_without_naming_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Tenants read this message: no inner address is in it."""
    with ScriptedUpstream() as upstream:
        url = f"http://name.test:{upstream.port}"
    for hosts in (["127.0.0.1"], ["127.0.0.1", "::1"]):
        resolving(monkeypatch, *hosts)
        async with pool_for(url) as pool:
            with pytest.raises(ConnectFailed) as caught:
                await ask(pool)
            assert "127.0.0.1" not in str(caught.value)
            assert "::1" not in str(caught.value)
            assert pool.connections == 0


async def test_a_name_that_does_not_exist_is_a_failed_connection() -> None:
    """Whatever the resolver raises."""
    async with pool_for("http://no-such-host.invalid:1") as pool:
        with pytest.raises(ConnectFailed):
            await ask(pool)


async def test_connecting_has_a_bound() -> None:
    """An address that swallows the greeting is given up in time, and the place is free again."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = []
        for _ in range(4):  # more than the backlog takes: the next SYN gets no answer
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
            fillers.append(filler)
        try:
            async with pool_for(f"http://127.0.0.1:{full.getsockname()[1]}", connect_timeout_s=0.3) as pool:
                start = time.monotonic()
                with pytest.raises(ConnectFailed, match=r"within 0\.3 s"):
                    await ask(pool)
                assert time.monotonic() - start < 2
                assert pool.connections == 0
        finally:
            for filler in fillers:
                filler.close()


def test_reasons_are_the_systems_words() -> None:
    """Not those of asyncio, which hold the address."""
    assert reason(ConnectionRefusedError(111, "Connect call failed ('10.0.0.7', 443)")) == "Connection refused"
    assert reason(socket.gaierror(-2, "Name or service not known")) == "Name or service not known"
    assert reason(ConnectionResetError()) == "ConnectionResetError"
    assert "10.0.0.7" not in reason(OSError("Multiple exceptions: ('10.0.0.7', 443)"))
