"""Background responses that are not settled yet. Each function works in the caller's transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from proxy.model import Settlement
from proxy.store import queries
from proxy.store.ledger import record
from proxy.store.written import settlement_of, write


@dataclass(frozen=True, slots=True)
class Pending:
    """A response to ask for, how often that was done already, and until when it makes sense.

    `upstream_key` says where the key is found that it was made with (`model.Caller`).
    """

    response_id: str
    settlement: Settlement
    tries: int
    until_ms: int
    upstream_key: str


def add(
    connection: sqlite3.Connection, settlement: Settlement, *, next_ms: int, until_ms: int, upstream_key: str = ""
) -> None:
    """Remember a response, by the `response_id` of its settlement, which is recorded once its usage is known."""
    row = (settlement.id, settlement.response_id, write(settlement).decode(), next_ms, until_ms, upstream_key)
    connection.execute(queries.INSERT_FOLLOWUP, row)


def due(connection: sqlite3.Connection, now_ms: int, limit: int) -> list[Pending]:
    return _pending(connection.execute(queries.FOLLOWUPS_DUE, (now_ms, limit)))


def of_response(connection: sqlite3.Connection, response_id: str) -> list[Pending]:
    """The ones that wait for a response: one, or none."""
    return _pending(connection.execute(queries.FOLLOWUPS_OF_RESPONSE, (response_id,)))


def _pending(rows: Iterable[tuple[Any, ...]]) -> list[Pending]:
    return [
        Pending(response_id, settlement_of(orjson.loads(written)), tries, until_ms, upstream_key)
        for response_id, written, tries, until_ms, upstream_key in rows
    ]


def next_ms(connection: sqlite3.Connection) -> int | None:
    """When the next one is due; None where there is none."""
    (soonest,) = connection.execute(queries.NEXT_FOLLOWUP).fetchone()
    return None if soonest is None else int(soonest)


def postpone(connection: sqlite3.Connection, request_id: str, until_ms: int) -> None:
    connection.execute(queries.POSTPONE_FOLLOWUP, (until_ms, request_id))


def settle(connection: sqlite3.Connection, settlement: Settlement) -> bool:
    """Record the settlement, unless that was done already. Returns whether it was recorded."""
    if not connection.execute(queries.DELETE_FOLLOWUP, (settlement.id,)).rowcount:
        return False
    record(connection, [settlement])
    return True
