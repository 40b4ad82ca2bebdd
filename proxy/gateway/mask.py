"""Error answers pass without the upstream's key, which some upstreams repeat when they refuse it."""

from __future__ import annotations

from proxy.errors import Headers
from proxy.gateway.meter import Blind

_SCHEME = b"Bearer "
#: A shorter one is no secret, and may be a part of any word.
_SECRET_BYTES_MIN = 8


class Mask(Blind):
    """Passes an answer with every occurrence of the credentials' secrets starred out, however the bytes are cut."""

    def __init__(self, credentials: Headers) -> None:
        secrets = [value.removeprefix(_SCHEME) for _, value in credentials]
        self._secrets = [secret for secret in secrets if len(secret) >= _SECRET_BYTES_MIN]
        self._kept = b""

    def feed(self, data: bytes) -> bytes:
        data = self._starred(self._kept + data)
        kept = max((_overlap(data, secret) for secret in self._secrets), default=0)
        self._kept = data[len(data) - kept :]
        return data[: len(data) - kept]

    def finish(self) -> bytes:
        kept, self._kept = self._kept, b""
        return kept

    def headers(self, headers: Headers) -> Headers:
        return [(name, self._starred(value)) for name, value in headers]

    def _starred(self, data: bytes) -> bytes:
        for secret in self._secrets:
            data = data.replace(secret, b"*" * len(secret))
        return data


def _overlap(data: bytes, secret: bytes) -> int:
    """The longest end of the data that a secret begins with, which may go on in what comes next."""
    longest = min(len(data), len(secret) - 1)
    return next((size for size in range(longest, 0, -1) if data.endswith(secret[:size])), 0)
