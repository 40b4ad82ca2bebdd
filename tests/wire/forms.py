"""Forms as clients write them, and how they are refused."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.errors import InvalidRequest
from proxy.wire.form import Form, read_form

TYPE = b"multipart/form-data; boundary=b"


def part(name: str, content: bytes | str, more: str = "", headers: str = "") -> bytes:
    content = content.encode() if isinstance(content, str) else content
    return f'Content-Disposition: form-data; name="{name}"{more}\r\n{headers}\r\n'.encode() + content


def joined(*parts: bytes, boundary: bytes = b"b") -> bytes:
    return b"".join(b"--" + boundary + b"\r\n" + one + b"\r\n" for one in parts) + b"--" + boundary + b"--\r\n"


def read(*parts: bytes) -> Form:
    return read_form(TYPE, joined(*parts))


def refusal(content_type: bytes, raw: bytes, **options: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as found:
        read_form(content_type, raw, **options)
    assert found.value.status == 400
    assert len(str(found.value)) < 300
    return found.value


#: A field and a file.
WHOLE = joined(part("model", "m"), part("file", b"\0\r\n\xff", '; filename="a"'))
