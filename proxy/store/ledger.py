"""Settlements, as rows: recording them with their rollups, and reading them back."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from proxy.model import BUCKETS, UNITS, Cost, CostState, EventState, Outcome, Settlement, Units, Usage, UsageSource
from proxy.store import queries
from proxy.store.database import begin

HOUR_MS = 3_600_000
_DAY_MS = 24 * HOUR_MS

#: SQLite's largest integer. A sum stops here: beyond it would turn into a float.
_COUNT_MAX = 2**63 - 1
#: Of names that clients and upstreams choose; their requests may be of any size, the ledger's rows may not.
_NAME_CHARS_MAX = 512
_PROBE_BYTES = 1024 * 1024

_buckets = attrgetter(*BUCKETS)
_units = attrgetter(*UNITS)
_BUCKETS_FROM = 11
_BUCKETS_TO = _BUCKETS_FROM + len(BUCKETS)
_UNITS_FROM = _BUCKETS_TO + 3
_UNITS_TO = _UNITS_FROM + len(UNITS)
_SETTLEMENT_COLUMNS = _UNITS_TO + 9


@dataclass(frozen=True, slots=True)
class Delivery:
    """A settlement and where its event stands. `error` is the receiver's last words, `reason` why it was discarded."""

    settlement: Settlement
    state: EventState
    attempts: int
    error: str
    delivered_ms: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events a person asks for: whose, with which words among the receiver's, and arrived in `[from_ms, to_ms)`.

    Letters of the words match in both cases.
    """

    subject: str = ""
    words: str = ""
    from_ms: int = 0
    to_ms: int = _COUNT_MAX

    @property
    def row(self) -> tuple[str | int, ...]:
        """As the queries take it."""
        return self.subject, self.subject, self.words, self.words, self.from_ms, self.to_ms


#: All of them.
EVERY = Wanted()


def record(connection: sqlite3.Connection, settlements: Sequence[Settlement]) -> None:
    """Write settlements and add them to their rollups, in the caller's transaction.

    Raises `sqlite3.IntegrityError` where one of them is in the ledger already.
    """
    connection.executemany(queries.INSERT_EVENT, map(_row, settlements))
    sums: dict[tuple[Any, ...], list[int]] = {}
    for one in settlements:
        model = _name(one.model)
        key = (one.subject, one.time_ms // HOUR_MS, model, one.endpoint, one.key_id, str(one.usage_source))
        amounts = (1, *_buckets(one.usage), *_units(one.units), *_costs(one))
        known = sums.get(key)
        sums[key] = list(amounts) if known is None else [a + b for a, b in zip(known, amounts, strict=True)]
    rollups = [(*key, *(min(amount, _COUNT_MAX) for amount in amounts)) for key, amounts in sums.items()]
    connection.executemany(queries.ADD_TO_ROLLUP, rollups)


def record_once(connection: sqlite3.Connection, settlement: Settlement) -> bool:
    """Record a settlement unless one with the same subject and `response_id` was recorded so within a day.

    Returns whether it was recorded.
    """
    connection.execute(queries.FORGET_IDEMPOTENT, (settlement.time_ms - _DAY_MS,))
    row = (settlement.subject, settlement.response_id, settlement.time_ms)
    if not connection.execute(queries.NOTE_IDEMPOTENT, row).rowcount:
        return False
    record(connection, [settlement])
    return True


def record_unsettled(connection: sqlite3.Connection, settlements: Sequence[Settlement]) -> list[Settlement]:
    """Record those that are not settled yet, and do not wait for a background response either. Returns these."""
    unsettled = [
        one for one in settlements if connection.execute(queries.IS_KNOWN, (one.id, one.id)).fetchone() is None
    ]
    record(connection, unsettled)
    return unsettled


def probe(connection: sqlite3.Connection) -> None:
    """Write as much as a large batch would, and take it back. Raises `sqlite3.Error` where that is impossible."""
    with begin(connection):
        connection.execute(queries.INSERT_PROBE, (_PROBE_BYTES,))
    with begin(connection):
        connection.execute(queries.DELETE_PROBES)


def event(connection: sqlite3.Connection, event_id: str) -> Delivery | None:
    row = connection.execute(queries.EVENT, (event_id,)).fetchone()
    return None if row is None else _delivery(row)


def newest(
    connection: sqlite3.Connection,
    wanted: Wanted = EVERY,
    *,
    state: EventState | None = None,
    after: str = "",
    limit: int,
) -> list[Delivery]:
    """The newest events first; with `after` those that were recorded before this one."""
    return [_delivery(row) for row in connection.execute(queries.EVENTS_NEWEST[state], (*wanted.row, after, limit))]


def settlement_of(row: Sequence[Any]) -> Settlement:
    """The settlement that a row begins with."""
    usage_source, duration_ms, ttft_ms = row[_BUCKETS_TO:_UNITS_FROM]
    words = row[_UNITS_TO:_SETTLEMENT_COLUMNS]
    upstream, usage_path, estimator, on_disconnect, response_id, over_limit, pico_usd, cost_state, tier = words
    return Settlement(
        id=row[0],
        subject=row[1],
        key_id=row[2],
        time_ms=row[3],
        endpoint=row[4],
        requested_model=row[5],
        model=row[6],
        provider=row[7],
        streamed=bool(row[8]),
        status=row[9],
        outcome=Outcome(row[10]),
        usage=Usage(*row[_BUCKETS_FROM:_BUCKETS_TO]),
        usage_source=UsageSource(usage_source),
        duration_ms=duration_ms,
        ttft_ms=ttft_ms,
        units=Units(*row[_UNITS_FROM:_UNITS_TO]),
        upstream=upstream,
        usage_path=usage_path,
        estimator=estimator,
        on_disconnect=on_disconnect,
        response_id=response_id,
        over_limit=over_limit,
        service_tier=tier,
        cost=Cost(pico_usd, CostState(cost_state)),
    )


def _row(one: Settlement) -> tuple[Any, ...]:
    return (
        one.id,
        one.subject,
        one.key_id,
        one.time_ms,
        one.endpoint,
        _name(one.requested_model),
        _name(one.model),
        _name(one.provider),
        one.streamed,
        one.status,
        one.outcome,
        *_buckets(one.usage),
        one.usage_source,
        one.duration_ms,
        one.ttft_ms,
        *_units(one.units),
        one.upstream,
        one.usage_path,
        one.estimator,
        one.on_disconnect,
        _name(one.response_id),
        one.over_limit,
        one.cost.pico_usd,
        one.cost.state,
        _name(one.service_tier),
    )


def _costs(one: Settlement) -> tuple[int, ...]:
    """What it adds to the sums of `COSTS`."""
    state = one.cost.state
    unpriced = state is CostState.UNPRICED
    tokens = one.usage.total_tokens if unpriced else 0
    return one.cost.pico_usd, state is CostState.PRICED, state is CostState.FREE, unpriced, tokens


def _name(text: str) -> str:
    """A name that others chose, as it is stored: bounded, and without lone surrogates, which SQLite does not take."""
    if len(text) <= _NAME_CHARS_MAX and text.isascii():
        return text
    return text[:_NAME_CHARS_MAX].encode("utf-8", "replace").decode()


def _delivery(row: Sequence[Any]) -> Delivery:
    state, attempts, error, delivered_ms, reason = row[_SETTLEMENT_COLUMNS:]
    return Delivery(settlement_of(row), EventState(state), attempts, error, delivered_ms, reason)
