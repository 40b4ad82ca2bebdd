"""Settlements that the ledger could not take: one JSON line each, as they leave on standard error and come back in."""

from __future__ import annotations

import re
import sqlite3
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

import orjson

from proxy.model import SUBJECT_PATTERN, Settlement
from proxy.money import PICO_MAX
from proxy.store import followups, queries
from proxy.store.ledger import record, record_once
from proxy.store.written import settlement_of, write

_MARK = re.compile(rb'\{\s*"tollgate_settlement"\s*:')
_ID = re.compile(r"[\x21-\x7e]{1,128}")
_TYPES = {"str": str, "int": int, "bool": bool}
#: Of counts and durations: sums of some are still integers that JSON can hold.
_COUNT_MAX = 2**53
#: The last instant that can be written as an event's time.
_TIME_MS_MAX = 253_402_300_799_999
_DAY_MS = 86_400_000


class Way(StrEnum):
    """How a settlement was to be recorded."""

    PLAIN = "plain"
    ONCE = "once"  # unless its response was billed already (`ledger.record_once`)
    LATER = "later"  # when its background response has ended (`followups.add`)


@dataclass(frozen=True, slots=True)
class Unrecorded:
    """A settlement, and how it was to be recorded. `upstream_key`: where a background response's key is found."""

    settlement: Settlement
    way: Way = Way.PLAIN
    upstream_key: str = ""


def line_of(one: Unrecorded) -> str:
    """One line of JSON, without its end."""
    rest = orjson.dumps({"way": one.way, "upstream_key": one.upstream_key}).decode()
    return f'{{"tollgate_settlement":{write(one.settlement).decode()},{rest[1:]}'


def unrecorded_in(line: bytes) -> Unrecorded | None:
    """What a line of a log holds, whatever precedes it; None where it holds no settlement.

    Raises `ValueError`, worded for the user, for one that is cut, changed or impossible.
    """
    found = _MARK.search(line)
    if found is None:
        return None
    try:
        document = orjson.loads(line[found.start() :].strip())
        one = settlement_of(document.pop("tollgate_settlement"))
        way, upstream_key = Way(document.pop("way", Way.PLAIN)), document.pop("upstream_key", "")
    except KeyError as error:
        raise ValueError(f"{error.args[0]} is missing") from None
    except (TypeError, AttributeError) as error:
        raise ValueError(f"it is no settlement: {error}") from None
    if document or not isinstance(upstream_key, str):
        raise ValueError("it has members that no settlement has")
    _check(one)
    return Unrecorded(one, way, upstream_key)


def take_in(connection: sqlite3.Connection, one: Unrecorded, now_ms: int) -> bool:
    """Record it in the caller's transaction. Returns False, and does nothing, where it is known already."""
    settlement = one.settlement
    if connection.execute(queries.IS_KNOWN, (settlement.id, settlement.id)).fetchone() is not None:
        return False
    match one.way:
        case Way.PLAIN:
            record(connection, [settlement])
        case Way.ONCE:
            return record_once(connection, settlement)
        case Way.LATER:
            until_ms = now_ms + _DAY_MS
            followups.add(connection, settlement, next_ms=now_ms, until_ms=until_ms, upstream_key=one.upstream_key)
    return True


def _check(one: Settlement) -> None:
    """Raises `ValueError` for values that no settlement has, though it has the right members."""
    for part in (one, one.usage, one.units, one.cost):
        for field in fields(part):
            _check_value(field.name, field.type, getattr(part, field.name))
    if not _ID.fullmatch(one.id):
        raise ValueError("id must be 1 to 128 visible ASCII characters")
    if not SUBJECT_PATTERN.fullmatch(one.subject):
        raise ValueError("subject is no tenant's id")
    if one.time_ms > _TIME_MS_MAX:
        raise ValueError("time_ms is no instant in unix milliseconds")
    if not 100 <= one.status <= 599:
        raise ValueError("status is no HTTP status")
    if one.on_disconnect not in ("", "drain", "cancel"):
        raise ValueError("on_disconnect is neither drain nor cancel")


def _check_value(name: str, kind: Any, value: object) -> None:
    expected = _TYPES.get(kind)
    if expected is not None and type(value) is not expected:
        raise ValueError(f"{name} must be of type {expected.__name__}")
    most = PICO_MAX if name == "pico_usd" else _COUNT_MAX
    if expected is int and isinstance(value, int) and not 0 <= value <= most:
        raise ValueError(f"{name} must be from 0 to {most}")
