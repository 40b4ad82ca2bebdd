"""Our events as the metering engine has them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from proxy.billing.openmeter import Document, OpenMeter
from proxy.errors import EngineUnreadable

_EVENTS = "/events"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
#: Bounds of a filter that names several values: beyond them it is refused.
_VALUES_MAX = 50
_VALUES_CHARS_MAX = 1024
#: Events of one second. The listing has no order within one, so that a second is held in memory.
SECOND_EVENTS_MAX = 200_000


@dataclass(frozen=True, slots=True)
class Stored:
    """One row. `time_s` is unix seconds, of which the engine keeps no fractions; `stored_ms` unix milliseconds.

    `complaints` is why it adds nothing to usage, or to nobody's: no meter, no customer, no value.
    """

    id: str
    source: str
    type: str
    subject: str
    time_s: int
    data: dict[str, Any]
    stored_ms: int
    complaints: tuple[str, ...]


async def since(engine: OpenMeter, source: str, from_s: int) -> AsyncGenerator[Stored]:
    """The rows with this source from `from_s` (unix seconds) on, in the order of their times.

    A field takes one comparison in one question, so that the end of a period is for the caller to notice.
    """
    parameters = {"filter[source][eq]": source, "filter[time][gte]": rfc3339(from_s), "sort": "time asc"}
    last_s, together = from_s, 0
    async for item in engine.by_cursor(_EVENTS, parameters):
        row = _read(item)
        together = together + 1 if row.time_s == last_s else 1
        if row.time_s < last_s or together > SECOND_EVENTS_MAX:
            raise EngineUnreadable(f"{engine.url}{_EVENTS}: its pages do not end, or not in the order of time")
        last_s = row.time_s
        yield row


async def with_ids(engine: OpenMeter, ids: Sequence[str]) -> list[Stored]:
    """Every row with one of these ids, of whatever source and time."""
    rows: list[Stored] = []
    for condition, value in _conditions(ids):
        parameters = {f"filter[id][{condition}]": value}
        rows += [_read(item) async for item in engine.by_cursor(_EVENTS, parameters)]
    return rows


async def newest_ms(engine: OpenMeter, source: str) -> int:
    """When the engine stored anything with this source the last time (unix ms); 0 where it never did."""
    parameters = {"filter[source][eq]": source, "sort": "stored_at desc", "page[size]": "1"}
    items = engine.items(await engine.get(_EVENTS, parameters))
    return _read(items[0]).stored_ms if items else 0


def rfc3339(unix_s: int) -> str:
    return datetime.fromtimestamp(unix_s, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def unix_ms(instant: object) -> int:
    """Milliseconds of an RFC 3339 instant. Raises `EngineUnreadable`."""
    try:
        parsed = datetime.fromisoformat(instant) if isinstance(instant, str) else None
    except ValueError:
        parsed = None
    if parsed is None or parsed.tzinfo is None:
        raise EngineUnreadable(f"an event has no instant where one belongs: {str(instant)[:100]!r}")
    return (parsed - _EPOCH) // _MS


def _conditions(ids: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The ids as filters. One with a comma cannot stand among others."""
    batch: list[str] = []
    for one in ids:
        if "," in one or one != one.strip():
            yield "eq", one
            continue
        if len(batch) == _VALUES_MAX or len(",".join([*batch, one]).encode()) > _VALUES_CHARS_MAX:
            yield "oeq", ",".join(batch)
            batch = []
        batch.append(one)
    if batch:
        yield "oeq", ",".join(batch)


def _read(item: Document) -> Stored:
    event, complaints = item.get("event"), item.get("validation_errors") or []
    data = event.get("data") or {} if isinstance(event, dict) else None
    if not isinstance(event, dict) or not isinstance(data, dict) or not isinstance(complaints, list):
        raise EngineUnreadable("an item of the listing is no event")
    return Stored(
        id=_text(event, "id"),
        source=_text(event, "source"),
        type=_text(event, "type"),
        subject=_text(event, "subject"),
        time_s=unix_ms(event.get("time")) // 1000,
        data=data,
        stored_ms=unix_ms(item.get("stored_at")),
        complaints=tuple(map(_words, complaints)),
    )


def _text(event: Document, key: str) -> str:
    value = event.get(key)
    if not isinstance(value, str):
        raise EngineUnreadable(f"an event's {key} is no text")
    return value


def _words(complaint: object) -> str:
    """A complaint's message; its code, which is always the same today, where it says nothing else."""
    if not isinstance(complaint, dict):
        return str(complaint)
    return str(complaint.get("message") or complaint.get("code") or "no words")
