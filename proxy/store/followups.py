"""Background responses that are not settled yet. Each function works in the caller's transaction."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

import orjson

from proxy.model import Settlement
from proxy.store import queries
from proxy.store.ledger import record
from proxy.store.written import settlement_of, write


@dataclass(frozen=True, slots=True)
class Pending:
    """A response to ask for, how often that was done already, and until when it makes sense."""

    response_id: str
    settlement: Settlement
    tries: int
    until_ms: int


def add(connection: sqlite3.Connection, settlement: Settlement, *, next_ms: int, until_ms: int) -> None:
    """Remember a response, by the `response_id` of its settlement, which is recorded once its usage is known."""
    row = (settlement.id, settlement.response_id, write(settlement).decode(), next_ms, until_ms)
    connection.execute(queries.INSERT_FOLLOWUP, row)


def due(connection: sqlite3.Connection, now_ms: int, limit: int) -> list[Pending]:
    rows = connection.execute(queries.FOLLOWUPS_DUE, (now_ms, limit))
    return [
        Pending(response_id, settlement_of(orjson.loads(written)), tries, until_ms)
        for response_id, written, tries, until_ms in rows
    ]


def next_ms(connection: sqlite3.Connection) -> int | None:
    """When the next one is due; None where there is none."""
    (soonest,) = connection.execute(queries.NEXT_FOLLOWUP).fetchone()
    return None if soonest is None else int(soonest)


def postpone(connection: sqlite3.Connection, request_id: str, until_ms: int) -> None:
    connection.execute(queries.POSTPONE_FOLLOWUP, (until_ms, request_id))


def settle(connection: sqlite3.Connection, settlement: Settlement) -> None:
    """Record the settlement, unless that was done already."""
    if connection.execute(queries.DELETE_FOLLOWUP, (settlement.id,)).rowcount:
        record(connection, [settlement])
