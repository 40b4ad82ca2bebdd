"""What can go wrong, as one tree, and the one place that turns it into an answer.

TollgateError
├── ConfigurationError          the start stops; one line names the key
│   ├── CatalogError            billing.toml is wrong; a line for each fault names line, key, rule and fix
│   └── WrongDeclaration        what a file declares of tenants; a server that runs goes on with what it declared before
├── StoreError                  a command on tenants, keys or events cannot be carried out
│   ├── NoSuch                  what it names is not there
│   ├── WrongInput              what it is told cannot be; says in which field
│   │   └── WrongFields         in several fields at once
│   └── TooMuch                 a report has more rows, or takes more time, than it may
├── ServerError                 a server could not be asked to carry out a command (`--server`)
├── ProxyError                  answered to the client in OpenAI's error shape
│   ├── Unauthenticated         401  no key, or one that is unknown, expired or revoked
│   ├── Forbidden               403  the tenant is disabled, or the model is not on the key's list
│   ├── RouteRefused            403  a known route that the operator has not allowed; says why, and how to
│   ├── ReferenceRefused        403  it names what all users of the upstream's account share; says how to allow it
│   ├── UnknownRoute            404  not a route that this proxy serves
│   ├── NotFound                404  what it names by an id is not the tenant's own, or is not at all
│   ├── MethodNotAllowed        405
│   ├── InvalidRequest          400  names the field and the fix
│   ├── HeadTimeout             408
│   ├── BodyTimeout             408
│   ├── BodyTooLarge            413
│   ├── UnsupportedEncoding     415
│   ├── RateLimited             429  a limit by the minute or hour, or others have reserved what is left: try again
│   ├── QuotaExceeded           429  a limit that renews late, or not by itself: do not try again
│   │   └── PaymentRequired     402  the tenant is suspended: a payment has failed
│   ├── HeadTooLarge            431
│   ├── ClientGone              499  the client left before its request was sent on; nobody sees this
│   ├── NotMeterable            501  a route that would get around the meter
│   ├── TooManyConnections      503
│   ├── EntitlementUnknown      503  nobody knows what the metering engine grants, and that is not to be guessed
│   ├── LedgerUnavailable       503  no event could be written, so nothing new is served
│   ├── ShuttingDown            503  stopped before the answer began, and after the grace period
│   └── UpstreamError           the upstream's fault
│       ├── ConnectFailed       502  no connection was made: safe to send again
│       ├── ConnectionBroken    502  it broke after the request was (partly) sent: never sent again
│       ├── BadAnswer           502  what came is not HTTP/1.1, or passes a bound
│       ├── KeyRefused          502  the upstream refuses the operator's key; not the tenant's 401
│       ├── KeyMissing          502  the tenant's own upstream key is not where it should be
│       ├── PoolExhausted       503  every connection stayed busy for the whole wait
│       └── UpstreamTimeout     504
├── SinkError                   the metering engine did not take a batch
│   ├── SinkUnavailable         unknown outcome: the same ids go again later
│   ├── SinkMisconfigured       3xx, 401, 403, 404, 405: pauses delivery until someone mends it
│   └── SinkRefused             any other 4xx: something in the batch is wrong
└── EngineError                 the metering engine did not answer a question
    ├── EngineUnavailable       408, 429, 5xx or no answer, however often it was asked
    ├── EngineRefused           any other status: the token, its role, the URL or the question is wrong
    ├── EngineUnreadable        what came is not what the API describes, or does not end
    └── NotKept                 it took something and has it otherwise
"""

from __future__ import annotations

import orjson

Headers = list[tuple[bytes, bytes]]


class TollgateError(Exception):
    """The root of the tree."""


class ConfigurationError(TollgateError):
    """The settings are wrong. The message is one line that names the key."""


class CatalogError(ConfigurationError):
    """The billing catalog is wrong. `faults` has a line for each thing that is."""

    def __init__(self, faults: list[str]) -> None:
        more = f" (and {len(faults) - 1} more: tollgate billing check)" if len(faults) > 1 else ""
        super().__init__(faults[0] + more)
        self.faults = faults


class WrongDeclaration(ConfigurationError):
    """What a file declares of tenants is refused whole.

    The message names the place. `place` says it without naming anybody: `tenants[2].keys[0].sha256`, or a line.
    """

    def __init__(self, message: str, place: str) -> None:
        super().__init__(message)
        self.place = place


class StoreError(TollgateError):
    """The store refuses a command: an unknown tenant, an id that is taken."""


class NoSuch(StoreError):
    """What a command names is not there."""


class WrongInput(StoreError):
    """What a command is told cannot be, whatever the store holds. `field` is what the admin API calls it."""

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


class WrongFields(WrongInput):
    """What is wrong with each field: `{"field": "models.0", "detail": …}`."""

    def __init__(self, faults: list[dict[str, str]]) -> None:
        super().__init__("; ".join(f"{one['field']}: {one['detail']}" for one in faults), faults[0]["field"])
        self.faults = faults


class TooMuch(StoreError):
    """More is asked for than a report may hold, or than it may take. The message says which."""


class ServerError(TollgateError):
    """A server was not asked, or its answer is not its admin API's. The message names its URL."""


class ProxyError(TollgateError):
    """A request ends with this proxy's own answer. The message is written for the client."""

    status = 500
    type = "server_error"
    code: str | None = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        if code is not None:
            self.code = code

    def headers(self) -> Headers:
        """Headers beyond the ones that every answer has."""
        return []


class _ClientError(ProxyError):
    type = "invalid_request_error"


class Unauthenticated(_ClientError):
    status = 401
    code = "invalid_api_key"

    def headers(self) -> Headers:
        return [(b"www-authenticate", b"Bearer")]


class Forbidden(_ClientError):
    status = 403
    code = "forbidden"


class RouteRefused(_ClientError):
    status = 403
    code = "route_not_allowed"


class ReferenceRefused(_ClientError):
    status = 403
    code = "reference_not_allowed"


class NotFound(_ClientError):
    status = 404


class UnknownRoute(_ClientError):
    status = 404
    code = "unknown_url"


class MethodNotAllowed(_ClientError):
    status = 405
    code = "method_not_allowed"

    def __init__(self, message: str, allow: str) -> None:
        super().__init__(message)
        self.allow = allow

    def headers(self) -> Headers:
        return [(b"allow", self.allow.encode())]


class InvalidRequest(_ClientError):
    status = 400


class _BodyUnread(_ClientError):
    """Refused before the body was read to its end, so the connection cannot be used again."""

    def headers(self) -> Headers:
        return [(b"connection", b"close")]


class HeadTimeout(_ClientError):
    status = 408
    code = "request_timeout"


class HeadTooLarge(_ClientError):
    status = 431
    code = "request_headers_too_large"


class BodyTimeout(_BodyUnread):
    status = 408
    code = "request_timeout"


class BodyTooLarge(_BodyUnread):
    status = 413
    code = "request_too_large"


class UnsupportedEncoding(_BodyUnread):
    status = 415
    code = "unsupported_content_encoding"


class RateLimited(ProxyError):
    """`type` is what was limited, as OpenAI has it: `requests` or `tokens`."""

    status = 429
    type = "requests"
    code = "rate_limit_exceeded"

    def __init__(self, message: str, what: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.type = what
        self.retry_after_s = retry_after_s
        self.rates: Headers = []

    def headers(self) -> Headers:
        return [(b"retry-after", b"%d" % self.retry_after_s), *self.rates]


class QuotaExceeded(ProxyError):
    status = 429
    type = "insufficient_quota"
    code = "insufficient_quota"

    def headers(self) -> Headers:
        return [(b"x-should-retry", b"false")]  # the SDKs obey it


class PaymentRequired(QuotaExceeded):
    status = 402
    type = "invalid_request_error"
    code = "payment_required"


class EntitlementUnknown(ProxyError):
    status = 503
    code = "entitlement_unknown"

    def headers(self) -> Headers:
        return [(b"retry-after", b"5")]


class ClientGone(_ClientError):
    status = 499  # nginx's number for it
    code = "client_disconnected"


class NotMeterable(ProxyError):
    status = 501
    code = "not_supported"


class TooManyConnections(ProxyError):
    status = 503
    code = "too_many_connections"

    def headers(self) -> Headers:
        return [(b"retry-after", b"1")]


class LedgerUnavailable(ProxyError):
    status = 503
    code = "ledger_unavailable"

    def headers(self) -> Headers:
        return [(b"retry-after", b"5")]


class ShuttingDown(ProxyError):
    status = 503
    code = "shutting_down"

    def headers(self) -> Headers:
        return [(b"retry-after", b"1")]


class UpstreamError(ProxyError):
    status = 502
    type = "upstream_error"
    code = "upstream_error"


class ConnectFailed(UpstreamError):
    code = "upstream_unreachable"


class ConnectionBroken(UpstreamError):
    code = "upstream_connection_broken"


class BadAnswer(UpstreamError):
    code = "upstream_bad_answer"


class KeyRefused(UpstreamError):
    code = "upstream_key_refused"


class KeyMissing(UpstreamError):
    code = "upstream_key_missing"


class PoolExhausted(UpstreamError):
    status = 503
    code = "upstream_busy"

    def headers(self) -> Headers:
        return [(b"retry-after", b"1")]


class UpstreamTimeout(UpstreamError):
    status = 504
    code = "upstream_timeout"


class SinkError(TollgateError):
    """A batch was not accepted. `words` is what the receiver said, or what went wrong on the way."""

    def __init__(self, words: str) -> None:
        super().__init__(words)
        self.words = words


class SinkUnavailable(SinkError):
    """Whether the batch arrived is unknown. `retry_after_s` is the receiver's own wish, if it had one.

    `failed`: it said so (5xx), or was reached and gave no answer. An event in the batch may be what it fails at.
    """

    def __init__(self, words: str, retry_after_s: float | None = None, *, failed: bool = False) -> None:
        super().__init__(words)
        self.retry_after_s = retry_after_s
        self.failed = failed


class SinkMisconfigured(SinkError):
    """The credential, role or URL is wrong. Sending again is useless until someone mends it."""


class SinkRefused(SinkError):
    """At least one event of the batch is refused for good; none was taken."""


class EngineError(TollgateError):
    """A question to the metering engine was not answered. The message says what to mend, and what the engine said."""


class EngineUnavailable(EngineError):
    """It may answer later. `retry_after_s` is its own wish, if it had one."""

    def __init__(self, words: str, retry_after_s: float | None = None) -> None:
        super().__init__(words)
        self.retry_after_s = retry_after_s


class EngineRefused(EngineError):
    """Asking again is useless until someone mends something. `status` is the answer's."""

    def __init__(self, words: str, status: int) -> None:
        super().__init__(words)
        self.status = status


class EngineUnreadable(EngineError):
    """Its answer cannot be what it claims to be: nothing is concluded from it."""


class NotKept(EngineError):
    """The engine took something and has it otherwise: an older one drops what it does not know."""


def error_answer(error: ProxyError) -> tuple[int, Headers, bytes]:
    """The status, headers and OpenAI error body (`{"error": {message, type, param, code}}`) for an error."""
    detail = {"message": str(error), "type": error.type, "param": error.param, "code": error.code}
    body = orjson.dumps({"error": detail})
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *error.headers()]
    return error.status, headers, body
