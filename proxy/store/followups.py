"""Background responses that are not settled yet. Each function works in the caller's transaction."""

from __future__ import annotations

import sqlite3
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from proxy.model import Outcome, Settlement, Units, Usage, UsageSource
from proxy.store import queries
from proxy.store.ledger import record


@dataclass(frozen=True, slots=True)
class Pending:
    """A response to ask for, how often that was done already, and until when it makes sense."""

    response_id: str
    settlement: Settlement
    tries: int
    until_ms: int


def add(connection: sqlite3.Connection, settlement: Settlement, *, next_ms: int, until_ms: int) -> None:
    """Remember a response, by the `response_id` of its settlement, which is recorded once its usage is known."""
    written = orjson.dumps(asdict(settlement)).decode()
    row = (settlement.id, settlement.response_id, written, next_ms, until_ms)
    connection.execute(queries.INSERT_FOLLOWUP, row)


def due(connection: sqlite3.Connection, now_ms: int, limit: int) -> list[Pending]:
    rows = connection.execute(queries.FOLLOWUPS_DUE, (now_ms, limit))
    return [Pending(response_id, _read(written), tries, until_ms) for response_id, written, tries, until_ms in rows]


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


def _read(written: str) -> Settlement:
    known: dict[str, Any] = orjson.loads(written)
    known["usage"] = Usage(**known["usage"])
    known["units"] = Units(**known["units"])
    known["outcome"] = Outcome(known["outcome"])
    known["usage_source"] = UsageSource(known["usage_source"])
    return Settlement(**known)
