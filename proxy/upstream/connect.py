"""From a URL to a connected socket: name lookup, racing IPv6 and IPv4 (RFC 8305), an HTTP proxy, TLS."""

from __future__ import annotations

import asyncio
import base64
import os
import re
import socket
import ssl
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import SplitResult, unquote, urlsplit

from aiohappyeyeballs import start_connection

from proxy.errors import ConfigurationError, ConnectFailed

_DEFAULT_PORTS = {"http": 80, "https": 443}
_RACE_DELAY_S = 0.25  # RFC 8305, section 8
_CONNECT_ANSWER_BYTES_MAX = 16 * 1024
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5]\d\d)[ \r]")
_PLAIN = re.compile(r"[!-~]+")
_HOST = re.compile(r"[0-9A-Za-z._:%-]+")


@dataclass(frozen=True, slots=True)
class Tunnel:
    """An HTTP proxy to CONNECT through. `authorization` is its `Proxy-Authorization`, empty for none."""

    host: str
    port: int
    authorization: str = field(repr=False)


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
        url, host, port = _split("upstream.base_url", base_url, _DEFAULT_PORTS)
        if "@" in url.netloc or "?" in base_url or "#" in base_url:
            raise ConfigurationError("upstream.base_url: takes no query, fragment or user name")
        tunnel = _tunnel_for(host, port) if url.scheme == "https" else None
        return cls(url.scheme, host, port, url.path.rstrip("/"), tunnel)

    @property
    def authority(self) -> bytes:
        """The value of `Host`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}").encode()


def _split(key: str, text: str, default_ports: dict[str, int]) -> tuple[SplitResult, str, int]:
    """The URL, its host and its port. Its text is not shown where it may hold a password."""
    schemes = " or ".join(f"{scheme}://" for scheme in default_ports)
    try:
        if not _PLAIN.fullmatch(text):
            raise ValueError("it has spaces or characters beyond ASCII")
        url = urlsplit(text)
        if url.scheme not in default_ports:
            raise ValueError(f"it does not begin with {schemes}")
        if not url.hostname or not _HOST.fullmatch(url.hostname):
            raise ValueError("it names no host")
        url.hostname.encode("idna")  # as every lookup will: refuses empty and too long labels
        port = default_ports[url.scheme] if url.port is None else url.port
        if port == 0:
            raise ValueError("Port out of range 0-65535")
    except ValueError as error:
        shown = "the value" if "@" in text else repr(text)
        raise ConfigurationError(f"{key}: {shown} is not an {schemes} URL: {error}") from None
    return url, url.hostname, port


def _tunnel_for(host: str, port: int) -> Tunnel | None:
    proxies = urllib.request.getproxies_environment()
    bypassed = urllib.request.proxy_bypass_environment  # type: ignore[attr-defined] # typeshed lacks it
    if "https" not in proxies or bypassed(host, proxies) or bypassed(f"{host}:{port}", proxies):
        return None
    text = proxies["https"] if "://" in proxies["https"] else f"http://{proxies['https']}"
    url, proxy_host, proxy_port = _split("HTTPS_PROXY", text, {"http": 80})
    authorization = ""
    if url.username is not None:
        credentials = f"{unquote(url.username)}:{unquote(url.password or '')}"
        authorization = "Basic " + base64.b64encode(credentials.encode()).decode()
    return Tunnel(proxy_host, proxy_port, authorization)


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
        raise ConnectFailed(f"No connection to the upstream could be made: {reason(error)}.") from None
    with suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def reason(error: OSError) -> str:
    """Why, for a tenant to read: the system's words, without the addresses that asyncio puts into its own."""
    if isinstance(error, ssl.SSLError | socket.gaierror) or not error.errno:
        return error.strerror or type(error).__name__
    return os.strerror(error.errno)


async def _establish(sock: socket.socket, origin: Origin, tunnel: Tunnel) -> None:
    """RFC 9110, section 9.3.6. The origin speaks only after our TLS greeting, so nothing may follow the answer."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, _connect_request(origin, tunnel))
    answer = b""
    while b"\r\n\r\n" not in answer:
        received = await loop.sock_recv(sock, 1024)
        answer += received
        if not received or len(answer) > _CONNECT_ANSWER_BYTES_MAX:
            raise ConnectFailed("The proxy named by HTTPS_PROXY gave no valid answer to CONNECT.")
    status = _STATUS.match(answer)
    if status is None:
        raise ConnectFailed("The proxy named by HTTPS_PROXY gave no valid answer to CONNECT.")
    if not status[1].startswith(b"2"):
        raise ConnectFailed(f"The proxy named by HTTPS_PROXY refused to connect: status {status[1].decode()}.")
    if not answer.endswith(b"\r\n\r\n") or answer.count(b"\r\n\r\n") > 1:
        raise ConnectFailed("The proxy named by HTTPS_PROXY sent more than its answer to CONNECT.")


def _connect_request(origin: Origin, tunnel: Tunnel) -> bytes:
    target = f"[{origin.host}]:{origin.port}" if ":" in origin.host else f"{origin.host}:{origin.port}"
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if tunnel.authorization:
        lines.append(f"Proxy-Authorization: {tunnel.authorization}")
    return "\r\n".join([*lines, "", ""]).encode()
