"""From a URL to a connected socket: name lookup, racing IPv6 and IPv4 (RFC 8305), an HTTP proxy, TLS."""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from typing import Self
from urllib.parse import unquote, urlsplit

from aiohappyeyeballs import start_connection

from proxy.errors import ConfigurationError, ConnectFailed

_DEFAULT_PORTS = {"http": 80, "https": 443}
_RACE_DELAY_S = 0.25  # RFC 8305, section 8
_CONNECT_ANSWER_BYTES_MAX = 16 * 1024


@dataclass(frozen=True, slots=True)
class Tunnel:
    """An HTTP proxy to CONNECT through. `authorization` is its `Proxy-Authorization`, empty for none."""

    host: str
    port: int
    authorization: str


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an upstream listens. `path` is what its base URL puts before every route, without a last slash."""

    scheme: str
    host: str
    port: int
    path: str
    tunnel: Tunnel | None = None

    @classmethod
    def parse(cls, base_url: str) -> Self:
        """Read a base URL such as `https://api.openai.com/v1`, with `HTTPS_PROXY` and `NO_PROXY` of the environment.

        Raises `ConfigurationError`.
        """
        url = urlsplit(base_url)
        if url.scheme not in _DEFAULT_PORTS or not url.hostname:
            raise ConfigurationError(f"upstream.base_url: {base_url!r} is not an http:// or https:// URL")
        if url.query or url.fragment or url.username or url.password:
            raise ConfigurationError("upstream.base_url: takes no query, fragment or user name")
        port = url.port or _DEFAULT_PORTS[url.scheme]
        tunnel = _tunnel_for(url.hostname) if url.scheme == "https" else None
        return cls(url.scheme, url.hostname, port, url.path.rstrip("/"), tunnel)

    @property
    def authority(self) -> bytes:
        """The value of `Host`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}").encode()


def _tunnel_for(host: str) -> Tunnel | None:
    proxies = urllib.request.getproxies_environment()
    bypassed = urllib.request.proxy_bypass_environment(host, proxies)  # type: ignore[attr-defined] # typeshed lacks it
    if "https" not in proxies or bypassed:
        return None
    url = urlsplit(proxies["https"] if "://" in proxies["https"] else f"http://{proxies['https']}")
    if url.scheme != "http" or not url.hostname:
        raise ConfigurationError("HTTPS_PROXY: only http:// proxies are supported")
    authorization = ""
    if url.username is not None:
        credentials = f"{unquote(url.username)}:{unquote(url.password or '')}"
        authorization = "Basic " + base64.b64encode(credentials.encode()).decode()
    return Tunnel(url.hostname, url.port or 80, authorization)


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """TLS with certificate and host name checks, trusting the system's authorities and those in `ca_file`."""
    context = ssl.create_default_context()
    if ca_file is not None:
        try:
            context.load_verify_locations(cafile=ca_file)
        except OSError as error:  # ssl.SSLError is one
            raise ConfigurationError(f"upstream.ca_file: {ca_file}: {error}") from None
    context.set_alpn_protocols(["http/1.1"])
    return context


async def connect(origin: Origin) -> socket.socket:
    """A TCP connection to the origin, or through its tunnel; non-blocking. Raises `ConnectFailed`."""
    if origin.tunnel is None:
        return await _tcp(origin.host, origin.port)
    sock = await _tcp(origin.tunnel.host, origin.tunnel.port)
    try:
        await _establish(sock, origin, origin.tunnel)
    except BaseException:
        sock.close()
        raise
    return sock


async def _tcp(host: str, port: int) -> socket.socket:
    loop = asyncio.get_running_loop()
    try:
        addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
        sock = await start_connection(addresses, happy_eyeballs_delay=_RACE_DELAY_S)
    except OSError as error:
        raise ConnectFailed(f"No connection to the upstream could be made: {error.strerror or error}.") from None
    with suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


async def _establish(sock: socket.socket, origin: Origin, tunnel: Tunnel) -> None:
    """RFC 9110, section 9.3.6. The origin speaks only after our TLS greeting, so nothing may follow the answer."""
    loop = asyncio.get_running_loop()
    target = f"[{origin.host}]:{origin.port}" if ":" in origin.host else f"{origin.host}:{origin.port}"
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if tunnel.authorization:
        lines.append(f"Proxy-Authorization: {tunnel.authorization}")
    await loop.sock_sendall(sock, "\r\n".join([*lines, "", ""]).encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        received = await loop.sock_recv(sock, 1024)
        answer += received
        if not received or b"\r\n\r\n" in answer[:-4] or len(answer) > _CONNECT_ANSWER_BYTES_MAX:
            raise ConnectFailed("The proxy named by HTTPS_PROXY gave no valid answer to CONNECT.")
    status = answer.split(b" ", 2)[1:2]
    if not answer.startswith(b"HTTP/1.") or not status or not status[0].startswith(b"2"):
        line = answer.split(b"\r\n", 1)[0].decode("latin-1")
        raise ConnectFailed(f"The proxy named by HTTPS_PROXY refused to connect: {line}.")
