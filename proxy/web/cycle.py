"""One request and its answer on a client's connection, as an ASGI application sees them."""

from __future__ import annotations

from starlette.types import Message
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from proxy.errors import Headers
from proxy.gateway.client import BODY_FOLLOWS, TOO_LATE, Departed

#: What may stand in a head, its lines' ends among it. (Names are as parsers let them pass, or our own.)
_OF_HEADS = bytes([*b"\t\n\r", *range(0x20, 0x7F), *range(0x80, 0x100)])
#: A body up to this size is joined with the head into one write.
_JOINED_BYTES_MAX = 64 * 1024


class Cycle(RequestResponseCycle):
    """One request and its answer. Uvicorn's `send` and `receive`, but for what is said here."""

    #: Its body did not come in time.
    late = False
    #: Called when the client leaves, once.
    _departed: Departed | None = None
    _head = b""
    #: The end of the connection is the body's.
    _ends_it = False

    def when_gone(self, departed: Departed | None) -> None:
        """Have this called when the client has left, at once where it has; None: not any more."""
        self._departed = departed
        if self.disconnected and departed is not None:
            departed()

    def give_up(self) -> None:
        """The rest of its body is too late."""
        self.late = True
        self.message_event.set()

    def leave(self) -> None:
        """The client has left."""
        self.disconnected = True
        self.message_event.set()
        if self._departed is not None:
            self._departed()

    @property
    def is_ready(self) -> bool:
        return not (self.flow.write_paused or self.disconnected or self._head)

    def write_data(self, data: bytes) -> None:
        if self.chunked_encoding:
            self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        else:
            self._send_body(data, more=True)

    async def send(self, message: Message) -> None:  # type: ignore[override] # its types are uvicorn's own
        """Where the head says that a body follows at once (`BODY_FOLLOWS`), both are written together."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        kind = message["type"]
        if not self.response_started and kind == "http.response.start":
            self.response_started = True
            self.waiting_for_100_continue = False
            if self.more_body:
                # Answered before its body was here, which closes the connection: the client must know that, or it
                # sends its next request into nothing.
                self.keep_alive = False
            self._head = self._head_of(message["status"], message["headers"])
            if not message.get(BODY_FOLLOWS):
                self._write(b"")
        elif self.response_started and not self.response_complete and kind == "http.response.body":
            self._send_body(message.get("body", b""), more=message.get("more_body", False))
        else:
            raise RuntimeError(f"Unexpected ASGI message '{kind}'.")

    def _head_of(self, status: int, headers: Headers) -> bytes:
        is_chunked = None
        lines = [STATUS_LINE[status]]
        for name, value in headers:
            if name == b"content-length":
                if is_chunked is None:
                    self.expected_content_length = int(value)
                    is_chunked = False
            elif name == b"transfer-encoding" and value.lower() == b"chunked":
                self.expected_content_length = 0
                is_chunked = True
            elif name == b"connection" and b"close" in value.lower():
                self.keep_alive = False
                continue
            lines.append(b"%b: %b\r\n" % (name, value))
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        if is_chunked is None and self.scope["method"] != "HEAD" and status not in (204, 304):
            is_chunked = self.scope["http_version"] != "1.0"  # RFC 9112, 6.1: who speaks it may not know of chunks
            if is_chunked:
                lines.append(b"transfer-encoding: chunked\r\n")
            self._ends_it = not is_chunked
        lines.append(b"\r\n")
        self.chunked_encoding = is_chunked
        head = b"".join(lines)
        if not head.count(b"\r") == head.count(b"\n") == len(lines) or head.translate(None, _OF_HEADS):
            raise RuntimeError("Invalid HTTP header.")
        return head

    def _send_body(self, body: bytes, *, more: bool) -> None:
        if self.scope["method"] == "HEAD":
            self.expected_content_length = 0
            self._write(b"")
        elif self.chunked_encoding:
            self._write(b"%x\r\n%b\r\n" % (len(body), body) if body else b"", b"" if more else b"0\r\n\r\n")
        elif self._ends_it:
            self._write(body)
        else:
            self.expected_content_length -= len(body)
            if self.expected_content_length < 0:
                raise RuntimeError("Response content longer than Content-Length")
            self._write(body)
        if not more:
            if self.expected_content_length != 0:
                raise RuntimeError("Response content shorter than Content-Length")
            self.response_complete = True
            self.message_event.set()
            if not self.keep_alive:
                self.transport.close()
            self.on_response()

    def _write(self, body: bytes, end: bytes = b"") -> None:
        head, self._head = self._head, b""
        if len(body) > _JOINED_BYTES_MAX:
            if head:
                self.transport.write(head)
            self.transport.write(body)
        elif head or body:
            self.transport.write(head + body + end)
            return
        if end:
            self.transport.write(end)

    async def receive(self) -> Message:  # type: ignore[override] # its types are uvicorn's own
        if self.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        if not self.disconnected and not self.response_complete:
            self.flow.resume_reading()
            await self.message_event.wait()
            self.message_event.clear()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        if self.late:
            return {"type": "http.disconnect", TOO_LATE: True}
        message = {"type": "http.request", "body": bytes(self.body), "more_body": self.more_body}
        self.body = bytearray()
        return message
