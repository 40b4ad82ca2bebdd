"""A client without manners: a socket, for what an HTTP library would hide, repair or refuse to send."""

from __future__ import annotations

import socket
import struct
from types import TracebackType
from typing import Self

import orjson

from tests.running import WAIT_S


class RawClient:
    """One connection to a server under test."""

    def __init__(self, port: int) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)
        self.received = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._sock.close()

    def send(self, data: bytes) -> None:
        self._sock.sendall(data)

    def post(self, path: str, key: str, body: object, *headers: str) -> None:
        """One POST, its body as it is where it is bytes, else as JSON."""
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        lines = [f"POST {path} HTTP/1.1", "host: t", f"authorization: Bearer {key}", f"content-length: {len(data)}"]
        self.send("\r\n".join([*lines, *headers, "", ""]).encode() + data)

    def read_until(self, marker: bytes) -> bytes:
        """All that was received, as soon as it holds `marker`."""
        while marker not in self.received:
            data = self._sock.recv(65536)
            assert data, f"the server closed before it sent {marker!r}: {self.received!r}"
            self.received += data
        return self.received

    def read_to_end(self) -> bytes:
        """All that was received, when the server has closed."""
        while data := self._sock.recv(65536):
            self.received += data
        return self.received

    def is_silent(self, seconds: float) -> bool:
        """Nothing comes for this long."""
        self._sock.settimeout(seconds)
        try:
            self.received += self._sock.recv(65536)
        except TimeoutError:
            return True
        finally:
            self._sock.settimeout(WAIT_S)
        return False

    def reset(self) -> None:
        """Leave as a process that is killed does."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()


def unchunked(answer: bytes) -> bytes:
    """The body of a chunked answer, which must be whole."""
    rest = answer.partition(b"\r\n\r\n")[2]
    body = b""
    while True:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        body += rest[:length]
        assert rest[length : length + 2] == b"\r\n"
        rest = rest[length + 2 :]
        if not length:
            assert not rest
            return body


def unchunked_part(body: bytes) -> bytes:
    """The bytes of a chunked body that breaks off somewhere."""
    data = b""
    while b"\r\n" in body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        data += rest[:length]
        body = rest[length + 2 :]
    return data
