"""Usage in the events of a stream that its client did not ask for: found, and cut out by bytes."""

from __future__ import annotations

import re

from proxy.wire.members import members

#: `"usage":null` with one closing brace after it, the last of the event: so it is a member of the outermost object.
_NULL_USAGE_LAST = re.compile(rb',[ \t]*"usage"[ \t]*:[ \t]*null(?=[^}\r\n]*\}[\r\n]*\Z)')
#: The bytes of an event that are not its data: what begins a `data` line, and the other lines.
_NOT_DATA = re.compile(rb"(?:\A(?:\xef\xbb\xbf)?|(?<=[\r\n]))(?:data:|(?!data:)[^\r\n]+)")


def tells_usage(event: bytes) -> bool:
    """Whether there may be more than `"usage":null`, which is all that most chunks say."""
    return b'"usage"' in event and b'"usage"' in event.replace(b'"usage":null', b"")


def without_null_usage(raw: bytes) -> bytes:
    """An event, known to have it, without its top-level `"usage":null`, and every other byte as it came."""
    if null := _only_null_usage(raw):
        return raw[: null.start()] + raw[null.end() :]
    # The mask has the event's length, so that what is found in the data is found in the event.
    data = _NOT_DATA.sub(lambda other: b" " * len(other[0]), raw)
    found_at = [*members(data)]
    at = max(at for at, member in enumerate(found_at) if member.name == "usage")
    if at > 0:
        return raw[: found_at[at - 1].end] + raw[found_at[at].end :]
    end = found_at[1].start if len(found_at) > 1 else found_at[0].end
    return raw[: found_at[0].start] + raw[end:]


def _only_null_usage(raw: bytes) -> re.Match[bytes] | None:
    """A top-level `"usage":null` that the outermost object ends with.

    Found without scanning, because a stream that we made to report its usage has it in every chunk but the last.
    """
    at = raw.find(b'"usage"')
    if raw.find(b'"usage"', at + 1) >= 0:
        return None
    if not raw.startswith(b"data:") or raw.find(b"\n", 0, at) >= 0 or raw.find(b"\r", 0, at) >= 0:
        return None  # it stands in a later line, perhaps a comment
    return _NULL_USAGE_LAST.match(raw, raw.rfind(b",", 0, at))
