"""Requests that no client should send, what their sender must be told, and what the upstream may see of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import orjson

from tests.streams import ASK, chunk

CHAT = b"/v1/chat/completions"
BODY_BYTES_MAX = 256 * 1024
BODY = orjson.dumps(ASK)
#: What an attacker wants the upstream to take for a request of its own.
SMUGGLED = b"GET /v1/smuggled HTTP/1.1\r\nhost: t\r\n\r\n"
_SIZED = b"content-length: %d" % len(BODY)
_CHUNKED = b"transfer-encoding: chunked"


@dataclass(frozen=True, slots=True)
class Attack:
    """Bytes with a `KEY` in them, and the error that they end in: its status, its code, and a word of its message."""

    said: bytes
    status: int
    code: str | None
    word: str


@dataclass(frozen=True, slots=True)
class Trick:
    """Bytes with a `KEY` in them that are served as an ordinary request, and what the upstream must see of it."""

    said: bytes
    target: str = CHAT.decode()
    body: bytes = BODY
    #: Names and values that reach the upstream besides those of every request.
    fields: dict[str, str] = field(default_factory=dict)


def post(*fields: bytes, body: bytes = BODY, path: bytes = CHAT, line: bytes = b"POST %b HTTP/1.1") -> bytes:
    """A POST of these header lines, with a key, and of no length but what they say."""
    return b"\r\n".join([line % path, b"host: t", b"x-api-key: KEY", *fields, b"", body])


def sized(body: bytes, *fields: bytes, path: bytes = CHAT) -> bytes:
    return post(*fields, b"content-length: %d" % len(body), body=body, path=path)


def _no_http(word: str, *fields: bytes, body: bytes = BODY) -> Attack:
    return Attack(post(*fields, body=body + SMUGGLED), 400, None, word)


def _chunks(word: str, framed: bytes) -> Attack:
    return _no_http(word, _CHUNKED, body=framed)


def _get(path: bytes, status: int, code: str, word: str, method: bytes = b"GET") -> Attack:
    return Attack(b"%b %b HTTP/1.1\r\nhost: t\r\nx-api-key: KEY\r\n\r\n" % (method, path), status, code, word)


def _json(body: bytes, code: str, word: str, status: int = 400) -> Attack:
    return Attack(sized(body), status, code, word)


_WHOLE = chunk(BODY) + chunk(b"")

FRAMES: dict[str, Attack] = {
    "a length and chunks": _no_http("Content-Length", _SIZED, _CHUNKED, body=_WHOLE),
    "chunks and a length": _no_http("Transfer-Encoding", _CHUNKED, _SIZED, body=_WHOLE),
    "two lengths": _no_http("Content-Length", _SIZED, b"content-length: 0"),
    "the same length twice": _no_http("Content-Length", _SIZED, _SIZED),
    "a list of lengths": _no_http("Content-Length", b"content-length: %d, 0" % len(BODY)),
    "a length with a sign": _no_http("Content-Length", b"content-length: +%d" % len(BODY)),
    "a length in hexadecimal": _no_http("Content-Length", b"content-length: 0x%x" % len(BODY)),
    "a length in two words": _no_http("Content-Length", b"content-length: 1 2"),
    "a negative length": _no_http("Content-Length", b"content-length: -1"),
    "an empty length": _no_http("Content-Length", b"content-length:"),
    "a length beyond 64 bits": _no_http("Content-Length", b"content-length: 99999999999999999999"),
    "a length behind a tab": _no_http("header token", b"content-length\t: %d" % len(BODY)),
    "an unheard of coding": _no_http("Transfer-Encoding", b"transfer-encoding: xchunked", body=_WHOLE),
    "gzip, chunked": _no_http("Transfer-Encoding", b"transfer-encoding: gzip, chunked", body=_WHOLE),
    "chunked, gzip": _no_http("Transfer-Encoding", b"transfer-encoding: chunked, gzip", body=_WHOLE),
    "chunked twice": _no_http("Transfer-Encoding", _CHUNKED, _CHUNKED, body=_WHOLE),
    "identity, chunked": _no_http("Transfer-Encoding", b"transfer-encoding: identity", _CHUNKED, body=_WHOLE),
    "a quoted coding": _no_http("Transfer-Encoding", b'transfer-encoding: "chunked"', body=_WHOLE),
    "a coding behind a vertical tab": _no_http("header value", b"transfer-encoding: \x0bchunked", body=_WHOLE),
    "a coding behind a space": _no_http("header", b"transfer-encoding : chunked", body=_WHOLE),
    "a coding on a folded line": _no_http("header value", b"transfer-encoding:\r\n chunked", body=_WHOLE),
    "chunks over HTTP/1.0": Attack(
        post(_CHUNKED, body=_WHOLE + SMUGGLED, line=b"POST %b HTTP/1.0"), 400, None, "HTTP/1.1"
    ),
    "a chunk size that is none": _chunks("chunk size", b"zz\r\n" + BODY),
    "a chunk size with 0x": _chunks("chunk size", b"0x%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)),
    "a negative chunk size": _chunks("chunk size", b"-1\r\n" + BODY),
    "a chunk size behind a space": _chunks("chunk size", b" " + _WHOLE),
    "a chunk size before a space": _chunks("chunk size", b"%x \r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)),
    "a chunk size beyond 64 bits": _chunks("Chunk size", b"1" + b"0" * 16 + b"%x\r\n%b" % (len(BODY), BODY)),
    "a chunk longer than its size": _chunks("chunk data", b"2\r\n%b\r\n0\r\n\r\n" % BODY),
    "a chunk that ends in a bare LF": _chunks("chunk", b"%x\r\n%b\n0\r\n\r\n" % (len(BODY), BODY)),
    "a chunk size that ends in a bare LF": _chunks("chunk", b"%x\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)),
    "an extension that ends in a bare LF": _chunks("chunk", b"%x;a\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)),
    "a trailer that is none": _chunks("header token", chunk(BODY) + b"0\r\nx : y\r\n\r\n"),
}

HEADS: dict[str, Attack] = {
    "a folded header": _no_http("whitespace", b"x: a\r\n b", _SIZED),
    "a space before a colon": _no_http("header token", b"x : a", _SIZED),
    "a line without a colon": _no_http("header token", b"abc", _SIZED),
    "a name that is empty": _no_http("header token", b": a", _SIZED),
    "a NUL in a name": _no_http("header token", b"x\0: a", _SIZED),
    "a NUL in a value": _no_http("header value", b"x: a\0b", _SIZED),
    "a bare CR in a value": _no_http("header value", b"x: a\rx-injected: b", _SIZED),
    "a bare LF after a value": _no_http("header value", b"x: a\nx-injected: b", _SIZED),
    "a bare LF after the line": Attack(post(_SIZED).replace(b"1.1\r\n", b"1.1\n"), 400, None, "CRLF"),
    "a bare LF at the end": Attack(post(_SIZED, body=b"").replace(b"\r\n\r\n", b"\r\n\n") + BODY, 400, None, "header"),
    "a header before the first": Attack(post(_SIZED).replace(b"\r\nhost", b"\r\n host"), 400, None, "start line"),
    "two hosts": _no_http("Host", b"Host: u", _SIZED),
    "no host": Attack(post(_SIZED).replace(b"host: t\r\n", b""), 400, None, "Host"),
    "a host with a path": Attack(post(_SIZED).replace(b"host: t", b"host: t/v1/files?"), 400, None, "Host"),
    "a method of its own": Attack(post(_SIZED, line=b"POSTS %b HTTP/1.1"), 400, None, "method"),
    "HTTP/2": Attack(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, None, "HTTP"),
    "HTTP/0.9": Attack(b"GET /v1/models\r\n\r\n", 400, None, "version"),
    "a tunnel": Attack(b"CONNECT files:443 HTTP/1.1\r\nhost: t\r\n\r\n", 405, "method_not_allowed", "CONNECT"),
    "a huge header": Attack(post(b"x: " + b"y" * 65_536, _SIZED), 431, "request_headers_too_large", "65536 bytes"),
    "headers without end": Attack(post(*[b"x: y"] * 200_000, _SIZED), 431, "request_headers_too_large", "65536 bytes"),
    "a huge target": Attack(
        post(_SIZED, path=CHAT + b"?" + b"x" * 65_536), 431, "request_headers_too_large", "65536 bytes"
    ),
    "trailers without end": Attack(
        post(_CHUNKED, body=chunk(BODY) + b"0\r\n" + b"x: y\r\n" * 200_000), 431, "request_headers_too_large", "trailer"
    ),
    "an extension without end": Attack(
        post(_CHUNKED, body=b"5;" + b"x" * 1_000_000), 431, "request_headers_too_large", "65536 bytes"
    ),
    "two types": Attack(sized(BODY, b"content-type: a/b", b"content-type: c/d"), 400, None, "Content-Type"),
    "a coding": Attack(sized(BODY, b"content-encoding: gzip"), 415, "unsupported_content_encoding", "Content-Encoding"),
    "a second coding": Attack(
        sized(BODY, b"content-encoding: identity", b"content-encoding: br"),
        *(415, "unsupported_content_encoding", "Content-Encoding"),
    ),
}

PATHS: dict[str, Attack] = {
    **{
        path: _get(path.encode(), 400, "invalid_path", "path")
        for path in (
            *("/v1/../v1/models", "/v1/models/../files", "/v1/models/%2e%2e/files", "/v1/models/%2E./files"),
            *("/v1/./models", "/v1//models", "/v1/models//x", "/v1/models/..%2ffiles", "/v1/models/x%2f..%2ffiles"),
            *("/v1/models/%252e%252e/files", "/v1/models\\..\\files", "/v1/models%2Ffiles", "/v1/%6dodels"),
            *("/v1/models/..;/files", "/v1/models/;/../files", "/v1/models%00", "/v1/models%3fx", "/v1/models%23"),
            *("/v1/models%0d%0ax-injected:%20b", "/v1/models/%c0%ae%c0%ae/files"),
            *("http://t/v1/models/../files", "http://t/v1//models"),
        )
    },
    "another route by another case": _get(b"/v1/Files", 404, "unknown_url", "/v1/Files"),
    "a path above /v1": _get(b"/v1/%2e%2e/admin", 400, "invalid_path", "path"),
    "a host for a path": _get(b"//files/v1/models", 404, "unknown_url", "files"),
    "a whole URL of another route": _get(b"http://t/v1/files", 403, "route_not_allowed", "/v1/files"),
    "a whole URL with a password": Attack(
        b"GET http://a:b@t/v1/models HTTP/1.1\r\nhost: t\r\nx-api-key: KEY\r\n\r\n", 400, None, "target"
    ),
    "a target that is no path": Attack(
        b"GET v1/models HTTP/1.1\r\nhost: t\r\nx-api-key: KEY\r\n\r\n", 400, None, "url"
    ),
    "a space in the target": Attack(
        b"GET /v1/models HTTP/1.1 HTTP/1.1\r\nhost: t\r\nx-api-key: KEY\r\n\r\n", 400, None, "HTTP"
    ),
    "TRACE": _get(b"/v1/models", 405, "method_not_allowed", "TRACE", b"TRACE"),
    "DELETE": _get(b"/v1/models/gpt-4o", 403, "route_not_allowed", "DELETE", b"DELETE"),
    "a GET with a body": Attack(sized(BODY, path=b"/v1/models").replace(b"POST", b"GET"), 400, None, "takes no body"),
}

_DEEP = 100_000

BODIES: dict[str, Attack] = {
    "no body": _json(b"", "invalid_json", "JSON"),
    "half a body": _json(BODY[:-1], "invalid_json", "JSON"),
    "a body and more": _json(BODY + b"{}", "invalid_json", "JSON"),
    "no object": _json(b"[]", "invalid_json", "object"),
    "lists in lists": _json(b'{"model":' + b"[" * _DEEP + b"]" * _DEEP + b"}", "invalid_json", "JSON"),
    "objects in objects": _json(b'{"a":' * 40_000, "invalid_json", "JSON"),
    "bad UTF-8": _json(BODY.replace(b"Hello", b"\xff\xfe"), "invalid_json", "JSON"),
    "half a surrogate": _json(BODY.replace(b"Hello", b"\\ud800"), "invalid_json", "JSON"),
    "an overlong NUL": _json(BODY.replace(b"Hello", b"\xc0\x80"), "invalid_json", "JSON"),
    "a byte order mark": _json(b"\xef\xbb\xbf" + BODY, "invalid_json", "JSON"),
    "UTF-16": _json(BODY.decode().encode("utf-16"), "invalid_json", "JSON"),
    "UTF-7": Attack(
        sized(BODY, b"content-type: application/json; charset=utf-7"), 400, "unsupported_content_type", "UTF-8"
    ),
    "NaN": _json(BODY[:-1] + b',"x":NaN}', "invalid_json", "JSON"),
    "a comment": _json(b"/**/" + BODY, "invalid_json", "JSON"),
    "two models": _json(b'{"model":"cheap","messages":[],"model":"dear"}', "duplicate_field", "model"),
    "two models, one escaped": _json(b'{"model":"cheap","\\u006dodel":"dear"}', "duplicate_field", "model"),
    "a model in capitals": _json(b'{"model":"cheap","Model":"dear"}', "ambiguous_field", "Model"),
    "a model that is a list": _json(b'{"model":["cheap"]}', "invalid_type", "model"),
    "a model that breaks lines": _json(b'{"model":"a\\r\\nx: b"}', "invalid_value", "model"),
    "two streams": _json(b'{"model":"m","stream":false,"stream":true}', "duplicate_field", "stream"),
    "a stream with a long s": _json('{"model":"m","\u017ftream":true}'.encode(), "ambiguous_field", "stream"),
    "a stream that is a number": _json(b'{"model":"m","stream":1}', "invalid_type", "stream"),
    "options that are none": _json(b'{"model":"m","stream":true,"stream_options":1}', "invalid_type", "stream_options"),
    "options twice": _json(
        b'{"model":"m","stream":true,"stream_options":{"include_usage":true},"stream_options":{}}',
        *("duplicate_field", "stream_options"),
    ),
    "a length that is too much": Attack(
        post(b"content-length: %d" % (BODY_BYTES_MAX + 1), body=b""), 413, "request_too_large", str(BODY_BYTES_MAX)
    ),
    "a length that no memory holds": Attack(
        post(b"content-length: 9223372036854775807", body=b"x"), 413, "request_too_large", str(BODY_BYTES_MAX)
    ),
    "a body that is too much": Attack(
        post(b"content-length: 30000000", body=b" " * 30_000_000), 413, "request_too_large", str(BODY_BYTES_MAX)
    ),
    "chunks without end": Attack(
        post(_CHUNKED, body=chunk(b" " * 10_000) * 3_000), 413, "request_too_large", str(BODY_BYTES_MAX)
    ),
    "a chunk that no memory holds": Attack(
        post(_CHUNKED, body=b"F" * 16 + b"\r\n" + b" " * 400_000), 413, "request_too_large", str(BODY_BYTES_MAX)
    ),
    "a body that does not come": Attack(post(_SIZED, body=b""), 408, "request_timeout", "0.5 s"),
    "half a body, and nothing": Attack(post(_SIZED, body=BODY[:9]), 408, "request_timeout", "0.5 s"),
    "half a chunk, and nothing": Attack(post(_CHUNKED, body=b"5\r\n{"), 408, "request_timeout", "0.5 s"),
    "no last chunk": Attack(post(_CHUNKED, body=chunk(BODY)), 408, "request_timeout", "0.5 s"),
    "half a head, and nothing": Attack(post(_SIZED)[:40], 408, "request_timeout", "0.5 s"),
}

#: Odd, and read alike by everyone.
ODD_BODIES: dict[str, bytes] = {
    "a field twice that decides nothing": b'{"seed":1,"model":"gpt-4o-mini","messages":[],"seed":2}',
    "space wherever it may be": b' \r\n{\t"model" :\n"gpt-4o-mini" , "messages" : [ ] }\n ',
    "an escaped name": b'{"\\u006d\\u006fdel":"gpt-4o-mini","messages":[]}',
    "other models within": b'{"messages":[{"model":"x","content":"\\"model\\":\\"x\\""}],"model":"gpt-4o-mini"}',
    "a model behind depth": b'{"x":%b,"model":"gpt-4o-mini","messages":[]}' % (b"[" * 500 + b"]" * 500),
    "numbers that no machine holds": b'{"seed":%b,"model":"gpt-4o-mini","messages":[]}' % (b"9" * 300),
    "a name that is almost one": b'{"models":["x"],"mode":"x","model ":"x","model":"gpt-4o-mini"}',
}

_NAMED = b"connection: keep-alive, x-hop, x-api-key, authorization, host, content-length, content-type"
_PRETENDED = (b"x-forwarded-for: 127.0.0.1", b"x-forwarded-host: files", b"x-forwarded-proto: https")
_CREDENTIALS = (
    *(b"authorization: Basic KEY", b"proxy-authorization: Bearer KEY", b"api-key: KEY", b"x-goog-api-key: KEY"),
    *(b"cookie: session=KEY", b"openai-organization: org-1", b"openai-project: proj_1"),
)
_UNDERLINED = (
    *(b"openai_organization: org-1", b"OpenAI_Project: proj_1", b"x_api_key: KEY", b"transfer_encoding: chunked"),
    *(b"content_length: 0", b"idempotency_key: 1", b"x_forwarded_for: 127.0.0.1", b"x_tollgate_subject: user-001"),
)
_OVERRIDING = (
    *(b"x-http-method-override: DELETE", b"x-original-url: /v1/files", b"x-rewrite-url: /v1/files"),
    *(b"x-tollgate-subject: other", b"x-tollgate-request-id: req_1"),
)
_OFFER = (b"connection: Upgrade, HTTP2-Settings", b"upgrade: h2c", b"http2-settings: AAMAAABk")
_EXTENDED = b'%x;name="value"\r\n%b\r\n0;end\r\n' % (len(BODY), BODY)
_URL = b"http://files.internal:99"

TRICKS: dict[str, Trick] = {
    "a whole URL": Trick(post(_SIZED, path=_URL + CHAT)),
    "another host": Trick(post(_SIZED).replace(b"host: t", b"host: files.internal")),
    "a query with a line in it": Trick(
        post(_SIZED, path=CHAT + b"?a=%0d%0ax-injected:%20b&../.."),
        target=CHAT.decode() + "?a=%0d%0ax-injected:%20b&../..",
    ),
    "headers for this hop": Trick(post(_SIZED, _NAMED, b"x-hop: 1", b"x-other: 2"), fields={"x-other": "2"}),
    "headers that are always so": Trick(post(_SIZED, b"te: trailers", b"keep-alive: timeout=9", b"trailer: x")),
    "a claim to be another": Trick(post(_SIZED, *_PRETENDED, b"forwarded: for=127.0.0.1", b"x-real-ip: 127.0.0.1")),
    "credentials in odd places": Trick(post(_SIZED, *_CREDENTIALS)),
    "names with underscores": Trick(post(_SIZED, *_UNDERLINED, b"my_name: a"), fields={"my_name": "a"}),
    "another method and path": Trick(post(_SIZED, *_OVERRIDING)),
    "another protocol": Trick(post(_SIZED, *_OFFER)),
    "empty lines before": Trick(b"\r\n\r\n" + post(_SIZED)),
    "a length with zeros": Trick(post(b"content-length: 000%d" % len(BODY))),
    "a length behind tabs": Trick(post(b"content-length:\t %d\t " % len(BODY))),
    "chunks of one byte": Trick(post(_CHUNKED, body=b"".join(chunk(bytes([one])) for one in BODY) + chunk(b""))),
    "extensions and trailers": Trick(post(_CHUNKED, body=_EXTENDED + b"x-injected: b\r\nx-api-key: other\r\n\r\n")),
    "a coding in capitals": Trick(post(b"Transfer-Encoding: CHUNKED", body=_WHOLE)),
    "no coding": Trick(post(_SIZED, b"content-encoding: identity"), fields={"content-encoding": "identity"}),
}
