"""Header lists of `(name, value)` byte pairs, names in lower case as ASGI gives them: what passes, what does not."""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import sha256

Headers = list[tuple[bytes, bytes]]

#: RFC 9110, section 7.6.1, and the non-standard ones that real proxies strip as well.
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)

#: Whatever a client could authenticate with, here or upstream, and what chooses the account that is charged there.
CREDENTIALS = frozenset(
    {
        b"authorization",
        b"x-api-key",
        b"api-key",
        b"x-goog-api-key",
        b"cookie",
        b"openai-organization",
        b"openai-project",
    }
)

#: Written anew for the upstream: the body's length, and what concerns this hop alone.
_REWRITTEN = frozenset({b"host", b"content-length", b"expect", b"accept-encoding"})

#: With which some servers take a request for one of another method or path than was checked.
_MISLEADING = frozenset(
    {b"x-http-method", b"x-http-method-override", b"x-method-override", b"x-original-url", b"x-rewrite-url"}
)

#: With which a proxy says for whom it asks. A client could only pretend to be another, or at another address.
_ASSERTED = frozenset({b"forwarded", b"x-real-ip"})

_REQUEST_DROPPED = HOP_BY_HOP | CREDENTIALS | _REWRITTEN | _MISLEADING | _ASSERTED
_OWN_PREFIX = b"x-tollgate-"
_REQUEST_DROPPED_PREFIXES = (_OWN_PREFIX, b"x-forwarded-")
_IDEMPOTENCY_KEY = b"idempotency-key"

#: What the body is, which cannot be for one hop only, whatever a hostile `Connection` declares.
_END_TO_END = frozenset({b"accept", b"content-encoding", b"content-length", b"content-type"})

#: The content codings that the meter can read.
_READABLE_CODINGS = frozenset({b"gzip", b"x-gzip", b"deflate", b"identity"})
_REFUSED = re.compile(rb";\s*[qQ]=0(?:\.0*)?\s*$")


def for_upstream(headers: Iterable[tuple[bytes, bytes]], *, identity: bool = False) -> Headers:
    """A client's headers as they go on: without hop-by-hop headers, credentials, and what is written anew.

    Of the codings the client accepts, only those are offered on that the meter can read; with `identity`, none.
    """
    kept: Headers = []
    accepted: list[bytes] = []
    connection: list[bytes] = []
    for pair in headers:
        name = pair[0]
        if name in _REQUEST_DROPPED:
            if name == b"accept-encoding":
                accepted.append(pair[1])
            elif name == b"connection":
                connection.append(pair[1])
        elif not name.startswith(_REQUEST_DROPPED_PREFIXES) and (b"_" not in name or not _is_alias(name)):
            kept.append(pair)
    if connection:
        named = _named_by(connection)
        kept = [pair for pair in kept if pair[0] not in named]
    kept.append((b"accept-encoding", _readable(accepted) if accepted and not identity else b"identity"))
    return kept


def _is_alias(name: bytes) -> bool:
    """Whether a name with underscores is, to CGI and all that came of it, one that is dropped, checked or changed."""
    dashed = name.replace(b"_", b"-")
    return (
        dashed in _REQUEST_DROPPED
        or dashed in _END_TO_END
        or dashed == _IDEMPOTENCY_KEY
        or dashed.startswith(_REQUEST_DROPPED_PREFIXES)
    )


def for_tenant(headers: Headers, subject: str) -> Headers:
    """The headers, with a tenant's Idempotency-Key made its own.

    An upstream answers a repeated key with what it answered before, within its account: to another's key, too.
    """
    if get(headers, _IDEMPOTENCY_KEY) is None:
        return headers
    return [(name, _own(value, subject) if name == _IDEMPOTENCY_KEY else value) for name, value in headers]


def _own(key: bytes, subject: str) -> bytes:
    return sha256(subject.encode() + b"\0" + key).hexdigest().encode()


def with_rates(headers: Headers, ours: Headers) -> Headers:
    """An answer's headers, with what this proxy tells of its own limits; the upstream's of the same name move aside."""
    if not ours:
        return headers
    names = {name for name, _ in ours}
    if names.isdisjoint([name for name, _ in headers]):
        return headers + ours
    moved = [(b"x-upstream-" + name.removeprefix(b"x-") if name in names else name, value) for name, value in headers]
    return moved + ours


def for_client(headers: Iterable[tuple[bytes, bytes]], *, without: frozenset[bytes] = frozenset()) -> Headers:
    """An upstream's headers as they go back: without hop-by-hop headers, our own names, and those in `without`."""
    kept: Headers = []
    connection: list[bytes] = []
    for pair in headers:
        name = pair[0]
        if name in HOP_BY_HOP:
            if name == b"connection":
                connection.append(pair[1])
        elif name not in without and not name.startswith(_OWN_PREFIX):
            kept.append(pair)
    if connection:
        named = _named_by(connection)
        kept = [pair for pair in kept if pair[0] not in named]
    return kept


def get(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """The first value of a header."""
    for key, value in headers:
        if key == name:
            return value
    return None


def _named_by(connection: list[bytes]) -> frozenset[bytes]:
    """The headers that `Connection` declares to be for this hop only."""
    return frozenset(token.strip().lower() for token in b",".join(connection).split(b",")) - _END_TO_END


def _readable(accepted: list[bytes]) -> bytes:
    """Those of the accepted codings that the meter can read, as the client ranked them; else `identity`."""
    items = [item.strip() for item in b",".join(accepted).split(b",")]
    kept = [item for item in items if item.split(b";")[0].strip().lower() in _READABLE_CODINGS]
    # Refusals alone would leave the upstream nothing that it may send.
    return b", ".join(kept) if any(not _REFUSED.search(item) for item in kept) else b"identity"
