"""The head of an upstream's answer: what may stand in it, whether its body has an end of its own."""

from __future__ import annotations

from proxy.errors import BadAnswer, Headers

#: Bytes that may come without one of the body among them: a head with its informational ones before it, trailers.
HEAD_BYTES_MAX = 64 * 1024
#: Informational (1xx) answers before the final one; more are an attack.
INTERIM_MAX = 16

#: Answers without a body, whatever their head says of one.
_BODILESS = (204, 304)


class Head:
    """One answer's head, field by field, and those of the informational answers before it.

    The parser sees to the grammar; here is refused, as `BadAnswer`, what two readers could take for different things.
    """

    __slots__ = ("_interim_count", "headers", "is_sized")

    def __init__(self) -> None:
        self.headers: Headers = []  #: names in lower case
        self.is_sized = False  #: a length or chunks say where the body ends; else the end of the connection does
        self._interim_count = 0

    def add(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        value = value.strip(b" \t")
        if name == b"content-length":
            self.is_sized = True
        elif name == b"transfer-encoding":
            if self.is_sized or value.lower() != b"chunked":
                raise BadAnswer("The upstream's answer has a transfer coding other than chunked.")
            self.is_sized = True
        self.headers.append((name, value))

    def end(self, version: str, status: int) -> bool:
        """The head is complete. Whether it is the final one: after an informational one another begins."""
        if version not in ("1.1", "1.0") or not 100 <= status <= 599 or status == 101:
            raise BadAnswer(f"The upstream answered with HTTP/{version} and status {status}.")
        # Counted here too, because how much of a head comes in one read is chance.
        if sum([len(name) + len(value) + 4 for name, value in self.headers]) > HEAD_BYTES_MAX:
            raise BadAnswer(f"The head of the upstream's answer is larger than {HEAD_BYTES_MAX} bytes.")
        if status >= 200:
            if status in _BODILESS:  # the length of what it does not carry: our server would wait for so many bytes
                self.headers = [pair for pair in self.headers if pair[0] != b"content-length"]
            return True
        self._interim_count += 1
        if self._interim_count > INTERIM_MAX:
            raise BadAnswer("The upstream sent too many informational answers.")
        self.headers = []
        self.is_sized = False
        return False
