"""Forms (multipart/form-data: RFC 7578, and RFC 2046 below it): what the meter needs of one, read without copying it.

A form is forwarded as it came, and the upstream reads it with a parser of its own. Parsers differ wherever a form is
out of the ordinary, so whatever could hide a field from one of them that another sees is refused, by name.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from proxy.errors import InvalidRequest

#: Far beyond what the official clients send: 16 images and a dozen fields.
PARTS_MAX = 512
#: Bytes of one part's headers.
HEADERS_BYTES_MAX = 16 * 1024
#: Bytes of a field whose text is kept; the longest that OpenAI takes, an image's prompt, is 32,000 characters.
FIELD_BYTES_MAX = 256 * 1024
_MODEL_CHARS_MAX = 256

#: What decides how a request is admitted and metered. Each may stand in a form once, as a plain field.
_DECIDING = frozenset({"model", "stream"})
_TRUE = frozenset({"true", "1", "on", "yes", "t", "y"})

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
# An unquoted value may hold more than a token: Java's mail library does not quote a boundary, whatever it holds.
_VALUE = rb'(?:"[^"\\]*+(?:\\.[^"\\]*+)*"|[^;\s"]*+)'
# Possessive: sixteen thousand spaces must not leave as many places to go back to. But no group is, in which there is
# anything to go back to: up to Python 3.11.4 such a one matches what it does not (gh-106052).
_PARAMETER = re.compile(rb"[ \t]*+;[ \t]*+(%b)[ \t]*+=[ \t]*+(%b)" % (_TOKEN, _VALUE), re.DOTALL)
_END = re.compile(rb"[ \t]*+;?[ \t]*+")
_FORM_TYPE = re.compile(rb"[ \t]*+multipart/form-data", re.IGNORECASE)
_DISPOSITION = re.compile(rb"form-data", re.IGNORECASE)
_TEXT = re.compile(rb"text/plain", re.IGNORECASE)
_BOUNDARY = re.compile(rb"[0-9a-zA-Z'()+_,\-./:=? ]{0,69}[0-9a-zA-Z'()+_,\-./:=?]")
_HEADER = re.compile(rb"(%b):[ \t]*+([^\r\n\0]*+)" % _TOKEN)
#: What may follow a boundary in its line: `--` where it is the last one, and padding.
_REST_OF_LINE = re.compile(rb"(--)?[ \t]*+(\r\n|\n|\Z)")
#: Wherever a parser that takes no notice of quotes would find the name.
_NAMED = re.compile(rb";[ \t]*+name[ \t]*+[*0-9]*+[ \t]*+=", re.IGNORECASE)
_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)
#: Go decodes quoted-printable parts, others do not; and in UTF-7 or EBCDIC letters are other bytes.
_PLAIN_CODINGS = frozenset({b"", b"7bit", b"8bit", b"binary"})
_PLAIN_CHARSETS = frozenset({b"utf-8", b"utf8", b"us-ascii", b"ascii", b"iso-8859-1", b"windows-1252"})


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a form, by the offsets of its content in the body. A `filename` makes it a file."""

    name: str
    filename: str | None
    start: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Form:
    """What a form holds.

    `fields` has the first text of each name (those longer than `FIELD_BYTES_MAX` are left out); `repeated` names what
    stands in the form more than once, such as `image[]`.
    """

    parts: tuple[Part, ...]
    fields: Mapping[str, str]
    repeated: tuple[str, ...]

    @property
    def files(self) -> tuple[Part, ...]:
        return tuple(part for part in self.parts if part.filename is not None)

    @property
    def model(self) -> str:
        return self.fields.get("model", "")

    @property
    def streamed(self) -> bool:
        return self.fields.get("stream", "").strip().lower() in _TRUE


def read_form(content_type: bytes, raw: bytes, *, model_required: bool = False) -> Form:
    """Read the form that a body of this type is. Raises `InvalidRequest`, and nothing else."""
    parts: list[Part] = []
    fields: dict[str, str] = {}
    for headers, start, end in _sections(_boundary(content_type), raw):
        if len(parts) == PARTS_MAX:
            raise _invalid(f"it has more than {PARTS_MAX} parts")
        part, plain = _part(headers, start, end)
        parts.append(part)
        if part.name in _DECIDING and (part.filename is not None or not plain or part.size > FIELD_BYTES_MAX):
            raise InvalidRequest(f"Send '{part.name}' as a plain text field.", param=part.name, code="invalid_type")
        if part.filename is None and part.size <= FIELD_BYTES_MAX:
            fields.setdefault(part.name, raw[start:end].decode(errors="replace"))
    repeated = tuple(name for name, times in Counter(part.name for part in parts).items() if times > 1)
    _check_deciding(fields, repeated, model_required)
    return Form(tuple(parts), fields, repeated)


def _check_deciding(fields: Mapping[str, str], repeated: tuple[str, ...], model_required: bool) -> None:
    for name in repeated:
        if name in _DECIDING:
            message = f"'{name}' stands in the form more than once; send it once."
            raise InvalidRequest(message, param=name, code="duplicate_field")
    model = fields.get("model", "")
    if not model and model_required:
        raise InvalidRequest("You must provide a model parameter.", param="model", code="missing_required_parameter")
    if len(model) > _MODEL_CHARS_MAX or not model.isprintable() or "\ufffd" in model:
        message = f"'model' must be at most {_MODEL_CHARS_MAX} printable characters."
        raise InvalidRequest(message, param="model", code="invalid_value")


def _invalid(what: str) -> InvalidRequest:
    return InvalidRequest(f"The form in the body of your request cannot be read: {what}.", code="invalid_form")


def _boundary(content_type: bytes) -> bytes:
    parameters = _parameters(_FORM_TYPE, content_type)
    if parameters is None:
        raise _invalid("its Content-Type is not a well-formed multipart/form-data")
    named = [(key, value) for key, value in parameters if key.startswith(b"boundary")]
    if not named:
        raise _invalid("its Content-Type names no boundary")
    boundary = _inside(named[0][1])
    # A boundary named twice, or in pieces (boundary*0=): parsers differ in which one they take.
    if len(named) > 1 or named[0][0] != b"boundary" or not _BOUNDARY.fullmatch(boundary):
        raise _invalid("its Content-Type must name one boundary, of at most 70 of the characters in RFC 2046")
    return boundary


def _sections(boundary: bytes, raw: bytes) -> Iterator[tuple[list[bytes], int, int]]:
    """The header lines and the content's offsets of each part.

    No line of a part begins with the boundary (RFC 2046, section 5.1.1). So each line that does is a delimiter or
    the form is refused, and all lines end alike: some parsers end a line at a bare LF, others only at CRLF.
    """
    dashed = b"--" + boundary
    delimiter = b"\n" + dashed
    at = 0 if raw.startswith(dashed) else raw.find(delimiter) + 1
    if at == 0 and not raw.startswith(dashed):
        raise _invalid("it does not hold the boundary that its Content-Type names")
    closing, line_end = _delimiter_at(raw, at + len(dashed))
    crlf = line_end.endswith(b"\r\n")
    if b"\r" + dashed in raw or (at and (at > 1 and raw[at - 2] == 0x0D) is not crlf):
        raise _invalid("its lines end in different ways")
    at += len(dashed) + len(line_end)
    blank_line = b"\r\n\r\n" if crlf else b"\n\n"
    while not closing:
        following = raw.find(delimiter, at - 1)
        if following < 0:
            raise _invalid("it is cut off before its last boundary")
        headers_end = raw.find(blank_line, at, min(following, at + HEADERS_BYTES_MAX))
        if headers_end < 0:
            raise _invalid(f"a part has no headers, no content, or over {HEADERS_BYTES_MAX} bytes of headers")
        start, end = headers_end + len(blank_line), following - crlf
        if crlf and raw[end] != 0x0D:
            raise _invalid("its lines end in different ways")
        yield raw[at:headers_end].split(b"\r\n" if crlf else b"\n"), start, end
        at = following + len(delimiter)
        closing, line_end = _delimiter_at(raw, at)
        if not closing and line_end.endswith(b"\r\n") is not crlf:
            raise _invalid("its lines end in different ways")
        at += len(line_end)
    if raw.find(delimiter, at - 1) >= 0:
        raise _invalid("it goes on after its last boundary")


def _delimiter_at(raw: bytes, after_boundary: int) -> tuple[bool, bytes]:
    """Whether the delimiter whose boundary ends here is the last one, and what follows the boundary in its line."""
    found = _REST_OF_LINE.match(raw, after_boundary)
    if found is None:
        raise _invalid("a line begins with the boundary and goes on")
    if not (found[1] or found[2]):
        raise _invalid("it is cut off before its last boundary")
    return bool(found[1]), found[0]


def _part(lines: list[bytes], start: int, end: int) -> tuple[Part, bool]:
    """The part with these headers, and whether its content is plain text, whoever reads it."""
    headers: dict[bytes, bytes] = {}
    for line in lines:
        header = _HEADER.fullmatch(line)
        if header is None or header[1].lower() in headers:
            raise _invalid("a part's headers are malformed, folded or repeated")
        headers[header[1].lower()] = header[2].strip(b" \t")
    disposition = headers.get(b"content-disposition", b"")
    parameters = dict(_parameters(_DISPOSITION, disposition) or ())
    if b"name" not in parameters or len(_NAMED.findall(disposition)) != 1:
        raise _invalid("each part must have one Content-Disposition: form-data with one plain name")
    name = _name(parameters[b"name"])
    filename = next((_text(value) for key, value in parameters.items() if key.startswith(b"filename")), None)
    if extended := parameters.get(b"filename*"):
        filename = unquote(_text(extended).rpartition("'")[2])
    plain = headers.get(b"content-transfer-encoding", b"").lower() in _PLAIN_CODINGS
    if kind := headers.get(b"content-type"):
        of_text = _parameters(_TEXT, kind)
        plain = plain and of_text is not None and _charset(of_text) in _PLAIN_CHARSETS
    return Part(name, filename, start, end), plain


def _name(value: bytes) -> str:
    """The name that a parameter gives a part, if no parser could take it for that of another."""
    name = _text(value)
    inside = _inside(value).decode(errors="replace")
    for reading in (name, inside, unquote(name), unquote(inside)):
        # OpenAI's own names of lists end in brackets (image[]).
        folded = reading.split("\0")[0].strip().removesuffix("[]").casefold()
        if folded in _DECIDING and not name == inside == folded:
            message = f"Name '{folded}' plainly, not {name[:80]!r}: upstreams differ in how they read it."
            raise InvalidRequest(message, param=folded, code="ambiguous_field")
    return name


def _parameters(kind: re.Pattern[bytes], raw: bytes) -> list[tuple[bytes, bytes]] | None:
    """The parameters of a header that begins so, their names in lower case, their values still quoted.

    Of two the first counts, so it is last. None where the header is not of this form.
    """
    begun = kind.match(raw)
    if begun is None:
        return None
    found = []
    at = begun.end()
    while parameter := _PARAMETER.match(raw, at):
        found.append((parameter[1].lower(), parameter[2]))
        at = parameter.end()
    return found[::-1] if _END.fullmatch(raw, at) else None


def _charset(parameters: list[tuple[bytes, bytes]]) -> bytes:
    return _inside(dict(parameters).get(b"charset", b"utf-8")).lower()


def _inside(value: bytes) -> bytes:
    return value[1:-1] if value.startswith(b'"') else value


def _text(value: bytes) -> str:
    inside = _inside(value)
    if value.startswith(b'"'):
        inside = _ESCAPE.sub(rb"\1", inside)
    return inside.decode(errors="replace")
