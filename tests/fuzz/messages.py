"""The messages that are mutated: a request to each kind of route, and answers as upstreams give them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import orjson

from tests import corpus
from tests.streams import DONE, STREAM_WITH_USAGE, STREAM_WITHOUT, USAGE, event

#: Where an exchange's tag goes.
PLACE = b"PLACE-OF-THE-TAG"
#: Of recorded answers, those up to this size: the machine's work is to try many.
_RECORDED_BYTES_MAX = 8_192


@dataclass(frozen=True, slots=True)
class Told:
    """An answer. `shown` is what its client must get of it, where that is known."""

    body: bytes
    fields: bytes = b"content-type: application/json\r\nx-told: PLACE-OF-THE-TAG\r\n"
    start: bytes = b"HTTP/1.1 200 OK\r\n"
    shown: bytes | None = None
    framed: bool = True  #: by whatever there is; else by its length
    first: Told | None = None  #: another answer that comes before, to the same request


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, and the answers that it may get."""

    path: bytes
    body: bytes
    answers: tuple[Told, ...]
    fields: tuple[bytes, ...] = (b"content-type: application/json",)
    method: bytes = b"POST"
    metered: bool = True


def _plain(body: bytes) -> Told:
    return Told(body, shown=body)


def _sse(body: bytes, shown: bytes | None = None) -> Told:
    fields = b"content-type: text/event-stream; charset=utf-8\r\nx-told: PLACE-OF-THE-TAG\r\n"
    return Told(body, fields, shown=body if shown is None else shown)


_TEXT = PLACE.decode()
_CHAT = orjson.dumps(
    {
        "id": f"chatcmpl-{_TEXT}",
        "model": "gpt-4o-mini-2024-07-18",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": f"Hello {_TEXT}"}, "finish_reason": "stop"}
        ],
        "usage": USAGE | {"prompt_tokens_details": {"cached_tokens": 3}},
    }
)
_RESPONSE = {
    "id": f"resp_{_TEXT}",
    "object": "response",
    "status": "completed",
    "model": "gpt-4.1-mini",
    "output": [{"type": "message", "content": [{"type": "output_text", "text": f"Hello {_TEXT}"}]}],
    "usage": {"input_tokens": 9, "output_tokens": 4, "total_tokens": 13},
}
_RESPONSE_STREAM = b"".join(
    b"event: %b\n%b" % (orjson.dumps(one["type"]).strip(b'"'), event(one))
    for one in (
        {"type": "response.created", "response": _RESPONSE | {"status": "in_progress", "usage": None, "output": []}},
        {"type": "response.output_text.delta", "output_index": 0, "delta": f"Hello {_TEXT}"},
        {"type": "response.completed", "response": _RESPONSE},
    )
)
_MARKED = b": %b\n\n" % PLACE
_WITH_USAGE = _MARKED + STREAM_WITH_USAGE
_ERROR = Told(b'{"error":{"message":"%b","type":"x"}}' % PLACE, start=b"HTTP/1.1 429 Too Many Requests\r\n")
_REFUSAL = replace(
    Told(b'{"error":{"message":"unknown field stream_options"}}', framed=False), start=b"HTTP/1.1 400 Bad Request\r\n"
)
_EMPTY = Told(b"", start=b"HTTP/1.1 204 No Content\r\n", framed=False)
_NOT_MODIFIED = Told(b"", start=b"HTTP/1.1 304 Not Modified\r\ncontent-length: 77\r\n", framed=False)
_MESSAGES = '"messages":[{"role":"user","content":"Hello TAG"}]'
_FORM_FIELDS = (b"content-type: multipart/form-data; boundary=b0undary",)
_FORM = (
    b'--b0undary\r\ncontent-disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
    b'--b0undary\r\ncontent-disposition: form-data; name="file"; filename="a.mp3"\r\n'
    b"content-type: audio/mpeg\r\n\r\n\xff\xfb\x90" + PLACE + b"\r\n--b0undary--\r\n"
)


def _json(text: str) -> bytes:
    return text.replace("MESSAGES", _MESSAGES).replace("TAG", _TEXT).encode()


ASKED = (
    Asked(
        b"/v1/chat/completions",
        _json('{"model":"gpt-4o-mini",MESSAGES,"temperature":0.5,"metadata":{"a":[1,2,{"b":null}]}}'),
        (_plain(_CHAT), _plain(_CHAT), _ERROR, _EMPTY, _sse(_WITH_USAGE)),
    ),
    Asked(
        b"/v1/chat/completions",
        _json('{"model":"gpt-4o-mini","stream":true,MESSAGES}'),
        (_sse(_WITH_USAGE, _MARKED + STREAM_WITHOUT), _sse(_WITH_USAGE, _MARKED + STREAM_WITHOUT), _ERROR),
    ),
    Asked(
        b"/v1/chat/completions",
        _json('{"model":"gpt-4o","stream":true,"stream_options":{"include_usage":true,"x":1},MESSAGES}'),
        (_sse(_WITH_USAGE), replace(_plain(_WITH_USAGE), shown=_WITH_USAGE)),
    ),
    Asked(
        b"/v1/chat/completions",
        _json('{"model":"old-TAG","stream":true,MESSAGES}'),
        (replace(_sse(_MARKED + STREAM_WITHOUT), first=_REFUSAL),),
    ),
    Asked(
        b"/v1/chat/completions",
        _json('{"model":"gpt-4o-mini",MESSAGES}'),
        (_plain(_CHAT),),
        (b"content-type: application/json", b"idempotency-key: PLACE-OF-THE-TAG", b"accept-encoding: gzip, br"),
    ),
    Asked(b"/v1/completions", _json('{"model":"m","prompt":"Hello TAG","stream":true}'), (_sse(_MARKED + DONE),)),
    Asked(b"/v1/responses", _json('{"model":"gpt-4.1-mini","input":"TAG"}'), (_plain(orjson.dumps(_RESPONSE)),)),
    Asked(b"/v1/responses", _json('{"model":"m","stream":true,"input":"TAG"}'), (_sse(_RESPONSE_STREAM),)),
    Asked(
        b"/v1/embeddings",
        _json('{"model":"text-embedding-3-small","input":["a","TAG"]}'),
        (
            _plain(
                b'{"data":[{"embedding":[0.1,-2e-5]}],"x":"%b","usage":{"prompt_tokens":9,"total_tokens":9}}' % PLACE
            ),
        ),
    ),
    Asked(
        b"/v1/images/generations",
        _json('{"model":"gpt-image-1","prompt":"TAG","n":2}'),
        (_plain(b'{"data":[{"b64_json":"%b"},{}],"usage":{"input_tokens":5,"output_tokens":7}}' % PLACE),),
    ),
    Asked(
        b"/v1/audio/speech",
        _json('{"model":"tts-1","input":"Hello TAG"}'),
        (replace(_plain(b"\xff\xfb" + PLACE), fields=b"content-type: audio/mpeg\r\n"),),
    ),
    Asked(
        b"/v1/audio/transcriptions",
        _FORM,
        (_plain(b'{"text":"%b","usage":{"type":"duration","seconds":3}}' % PLACE),),
        _FORM_FIELDS,
    ),
    Asked(b"/v1/models", b"", (_plain(b'{"data":["%b"]}' % PLACE), _NOT_MODIFIED), (), b"GET", metered=False),
    Asked(b"/v1/models/gpt-4o", b"", (_plain(b'{"id":"%b"}' % PLACE),), (b"if-none-match: x",), b"GET", metered=False),
    Asked(b"/api/generate", _json('{"prompt":"Hello TAG"}'), (Told(_CHAT), _ERROR)),
    Asked(
        b"/api/generate",
        _json('{"prompt":"Hello TAG","stream":true}'),
        (replace(_sse(_WITH_USAGE), shown=None),),
    ),
)


def with_recorded() -> tuple[Asked, ...]:
    """These, and those that were recorded, where they are at hand."""
    return (*ASKED, *_recorded())


def _recorded() -> list[Asked]:
    found = []
    for one in corpus.exchanges():
        path = b"/v1/" + one.endpoint.encode()
        known = next(
            (asked for asked in ASKED if asked.path == path and (b'"stream"' in asked.body) == one.streamed), None
        )
        if known is None or len(one.body) > _RECORDED_BYTES_MAX or b'"background"' in one.body or one.status >= 300:
            continue
        fields = b"content-type: %b\r\nx-told: %b\r\n" % (one.content_type or b"application/json", PLACE)
        found.append(replace(known, answers=(Told(one.body, fields),)))
    return found
