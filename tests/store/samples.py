"""Settlements to store, by hand and by Hypothesis."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from proxy.model import BUCKETS, COSTS, UNITS, Cost, CostState, Outcome, Settlement, Units, Usage, UsageSource
from proxy.store.ledger import HOUR_MS

#: 2026-04-13T10:30:00Z
TIME_MS = 1_776_076_200_000

SAMPLE = Settlement(
    id="req_1",
    subject="user-001",
    key_id="key_1",
    time_ms=TIME_MS,
    endpoint="/v1/chat/completions",
    requested_model="gpt-4o-mini",
    model="gpt-4o-mini-2024-07-18",
    provider="openai",
    streamed=True,
    status=200,
    outcome=Outcome.COMPLETED,
    usage=Usage(uncached_input=40, cached_input=12, text_output=195),
    usage_source=UsageSource.REPORTED,
    duration_ms=812,
    ttft_ms=190,
)


def settlement(event_id: str, **changes: Any) -> Settlement:
    return replace(SAMPLE, id=event_id, **changes)


def settlements(count: int, **changes: Any) -> list[Settlement]:
    return [settlement(f"req_{number:06}", **changes) for number in range(count)]


counts = st.integers(min_value=0, max_value=2**53)
usages = st.builds(Usage, *[counts for _ in BUCKETS])
names = st.text(max_size=40)

#: Any settlement, with few enough subjects, models and hours that many share a rollup.
any_settlement = st.builds(
    Settlement,
    id=st.uuids().map(str),
    subject=st.sampled_from(["user-001", "user-002"]),
    key_id=st.sampled_from(["key_1", "key_2"]),
    time_ms=st.integers(min_value=TIME_MS, max_value=TIME_MS + 2 * HOUR_MS),
    endpoint=st.sampled_from(["/v1/embeddings", "/api/generate"]),
    requested_model=names,
    model=st.sampled_from(["gpt-4o", "mødel-🙂", ""]) | names,
    provider=names,
    streamed=st.booleans(),
    status=st.integers(min_value=100, max_value=599),
    outcome=st.sampled_from(Outcome),
    usage=usages,
    usage_source=st.sampled_from(UsageSource),
    duration_ms=counts,
    ttft_ms=counts,
    units=st.builds(Units, *[counts for _ in UNITS]),
    upstream=names,
    usage_path=st.sampled_from(["", "usage", "response.usage"]),
    estimator=st.sampled_from(["", "o200k_base"]),
    on_disconnect=st.sampled_from(["", "drain", "cancel"]),
    response_id=names,
    service_tier=st.sampled_from(["", "flex"]),
    cost=st.builds(Cost, counts, st.sampled_from(CostState)),
)

_TOKENS = " + ".join(BUCKETS)
_SUMS = ", ".join(
    [
        "count(*)",
        *(f"sum({name})" for name in (*BUCKETS, *UNITS, "cost_pico_usd")),
        *(f"sum(cost_state = '{state}')" for state in ("priced", "free", "unpriced")),
        f"sum((cost_state = 'unpriced') * ({_TOKENS}))",
    ]
)


def sums_of_events(connection: sqlite3.Connection, first: int = 0, last: int = 2**63 - 1) -> list[Any]:
    """What the rollups must hold, counted from the events themselves; or of those from `first` to `last`."""
    grouped = f"""
        SELECT subject, time_ms / {HOUR_MS}, model, endpoint, key_id, usage_source, {_SUMS} FROM events
        WHERE seq BETWEEN ? AND ? GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, 2, 3, 4, 5, 6
    """
    return connection.execute(grouped, (first, last)).fetchall()


def rollups(connection: sqlite3.Connection) -> list[Any]:
    columns = f"subject, hour, model, endpoint, key_id, usage_source, requests, {', '.join((*BUCKETS, *UNITS, *COSTS))}"
    return connection.execute(f"SELECT {columns} FROM rollups ORDER BY 1, 2, 3, 4, 5, 6").fetchall()
