"""Error answers pass without the upstream's key, which some upstreams repeat when they refuse it."""

from __future__ import annotations

from proxy.errors import BadAnswer, Headers
from proxy.gateway.meter import EVENT_BYTES_MAX, Blind
from proxy.wire.coding import Decoder, Identity, Undecodable, decoder

_SCHEME = b"Bearer "
#: A shorter one is no secret, and may be a part of any word.
_SECRET_BYTES_MIN = 8


class Mask(Blind):
    """Passes an answer with every occurrence of the credentials' secrets starred out, however the bytes are cut.

    With a `coding` it passes uncompressed, and `feed` may raise `BadAnswer`. A secret is known as it was sent, and not
    in any other guise: in JSON and in URLs, keys of letters, digits, `-` and `_` look the same.
    """

    def __init__(self, credentials: Headers, coding: bytes | None = None) -> None:
        secrets = [value.removeprefix(_SCHEME) for _, value in credentials]
        self._secrets = [secret for secret in secrets if len(secret) >= _SECRET_BYTES_MIN]
        self._kept = b""
        # Without a secret there is nothing to search for, and in a coding that was never offered no way to.
        self._coding = coding if self._secrets else None
        self._decoder: Decoder = decoder(self._coding) or Identity()
        self.rewrites = not isinstance(self._decoder, Identity)

    def finds_in(self, whole: bytes) -> bool:
        """Whether a secret is in an answer of which these are all the bytes. Of one that cannot be read: no."""
        try:
            plain = (decoder(self._coding) or Identity()).decode(whole, EVENT_BYTES_MAX)
        except Undecodable:
            return False
        return any(secret in plain for secret in self._secrets)

    def feed(self, data: bytes) -> bytes:
        try:
            data = self._decoder.decode(data, EVENT_BYTES_MAX)
        except Undecodable:
            raise BadAnswer("The upstream's error is not in the coding that it names.") from None
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
