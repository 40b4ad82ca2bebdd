"""Ledgers as they are after months: tenants with their keys, and settled events with their rollups, made fast.

What is made depends on the numbers that are given alone, the keys' ids aside. The largest tenant is the first one; it
has a share of one over the root of their number.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from proxy.limits import Written
from proxy.store import queries
from proxy.store.database import Database, begin
from proxy.store.limits import set_limit
from proxy.store.tenants import create_key, create_tenant
from tests.store.samples import sums_of_events

DAY_MS = 86_400_000
#: The events arrived evenly in this time, the last one at its end.
SPAN_MS = 120 * DAY_MS
_PLAN = "bench"
#: Events in one transaction.
_CHUNK = 250_000
_CACHE_KIB = 256 * 1024

#: Eight kinds of requests, equally many of each: endpoint, model asked for and used, streamed or not, pico-dollars per
#: token of input and of output (no price: None).
_KINDS = (
    ("/v1/chat/completions", "gpt-4o-mini", "gpt-4o-mini-2024-07-18", 0, 150_000, 600_000),
    ("/v1/chat/completions", "gpt-4o-mini", "gpt-4o-mini-2024-07-18", 1, 150_000, 600_000),
    ("/v1/chat/completions", "gpt-4o-mini", "gpt-4o-mini-2024-07-18", 1, 150_000, 600_000),
    ("/v1/chat/completions", "gpt-4o", "gpt-4o-2024-08-06", 0, 2_500_000, 10_000_000),
    ("/v1/chat/completions", "gpt-4o", "gpt-4o-2024-08-06", 1, 2_500_000, 10_000_000),
    ("/v1/embeddings", "text-embedding-3-small", "text-embedding-3-small", 0, 20_000, 0),
    ("/v1/embeddings", "text-embedding-3-small", "text-embedding-3-small", 0, 20_000, 0),
    ("/v1/chat/completions", "own-model", "own-model", 0, None, None),
)
#: And how they ended, in 64ths: outcome, status, where the numbers came from, and of which parts there were any.
_ENDS = (
    (61, "completed", 200, "reported", 1, 1),
    (2, "client_disconnected", 200, "estimated", 1, 1),
    (1, "upstream_error", 503, "none", 0, 0),
)

# Each number from `first` to `last` is an event. Two hashes of it (its products with two odd numbers, 32 bits of each)
# decide what it is. The joins are crossed, so that they are made in this order.
_INSERT_EVENTS = """
    INSERT INTO events (
        seq, id, subject, key_id, time_ms, endpoint, requested_model, model, provider, streamed, status, outcome,
        uncached_input, cached_input, cache_write, audio_input, text_output, reasoning, audio_output,
        usage_source, duration_ms, ttft_ms, images, audio_ms, characters, upstream, usage_path, estimator,
        on_disconnect, response_id, state, attempts, delivered_ms, cost_pico_usd, cost_state
    )
    WITH RECURSIVE
        series (n) AS (SELECT :first UNION ALL SELECT n + 1 FROM series WHERE n < :last),
        hashed AS (
            SELECT n, :begin_ms + n * :span_ms / :count AS time_ms,
                n * 2654435761 % 4294967296 AS a, n * 2246822519 % 4294967296 AS b
            FROM series
        ),
        drawn AS (
            SELECT hashed.*, kinds.*, ends.*, (a >> 16) * (a >> 16) * :tenants >> 32 AS owner,
                has_input * (20 + (b & 1023)) AS input, has_input * ((b >> 10) & 1) * 128 AS cached,
                has_output * (price_out IS NOT 0) * (5 + ((a >> 4) & 511)) AS output
            FROM hashed CROSS JOIN kinds ON kinds.number = b >> 29 CROSS JOIN ends ON ends.number = (b >> 23) & 63
        )
    SELECT
        n, printf('req_%012x%016x', time_ms, a << 31 | b), subject, key_id, time_ms, endpoint, requested_model, model,
        'openai', streamed, status, outcome, input, cached, 0, 0, output, 0, 0, usage_source,
        200 + output * 8, streamed * 180, 0, 0, 0, 'upstream',
        CASE usage_source WHEN 'reported' THEN 'usage' ELSE '' END,
        CASE usage_source WHEN 'estimated' THEN 'o200k_base' ELSE '' END,
        '', printf('chatcmpl-%08x%08x', b, a),
        CASE WHEN n > :accepted THEN 'pending' ELSE 'accepted' END, n <= :accepted,
        CASE WHEN n <= :accepted THEN time_ms + 700 END,
        coalesce((input + cached / 2) * price_in + output * price_out, 0),
        CASE WHEN input = 0 THEN 'free' WHEN price_in IS NULL THEN 'unpriced' ELSE 'priced' END
    FROM drawn CROSS JOIN owners ON owners.number = drawn.owner
"""


def tenant_of(number: int) -> str:
    return f"tenant-{number:06}"


def key_of(number: int) -> str:
    """The secret of a tenant's one key; all are equally long."""
    return f"tg_bench_{number:08}"


def fill(
    file: Path, *, now_ms: int, limits: Sequence[str], tenants: int = 1, events: int = 0, pending: int = 0
) -> None:
    """A new ledger of so many tenants, all with the same limits, and events, the last of which wait for the sink."""
    Database(f"sqlite:///{file}").create()
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        # Nothing of this must outlive a crash.
        for pragma in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{_CACHE_KIB}"):
            connection.execute(f"PRAGMA {pragma}")
        with begin(connection):
            _make_tenants(connection, tenants, limits, now_ms)
        _prepare(connection)
        whole = {"count": events, "accepted": events - pending, "tenants": tenants}
        whole |= {"begin_ms": now_ms - SPAN_MS, "span_ms": SPAN_MS}
        for first in range(1, events + 1, _CHUNK):
            last = min(first + _CHUNK - 1, events)
            with begin(connection):
                connection.execute(_INSERT_EVENTS, whole | {"first": first, "last": last})
                connection.executemany(queries.ADD_TO_ROLLUP, sums_of_events(connection, first, last))
        connection.execute("PRAGMA journal_mode = WAL")


def _make_tenants(connection: sqlite3.Connection, count: int, limits: Sequence[str], now_ms: int) -> None:
    for limit in limits:
        set_limit(connection, "plan", _PLAN, Written.parse(limit))
    for number in range(count):
        create_tenant(connection, tenant_of(number), plan=_PLAN, now_ms=now_ms - SPAN_MS)
        create_key(connection, tenant_of(number), secret=key_of(number), now_ms=now_ms - SPAN_MS)


def _prepare(connection: sqlite3.Connection) -> None:
    """What events are drawn from, as tables that go with the connection."""
    connection.executescript("""
        CREATE TEMP TABLE owners (number INTEGER PRIMARY KEY, subject, key_id);
        INSERT INTO owners SELECT row_number() OVER (ORDER BY tenant_id) - 1, tenant_id, id FROM keys;
        CREATE TEMP TABLE kinds (
            number INTEGER PRIMARY KEY, endpoint, requested_model, model, streamed, price_in, price_out
        );
        CREATE TEMP TABLE ends (number INTEGER PRIMARY KEY, outcome, status, usage_source, has_input, has_output);
    """)
    connection.executemany(
        "INSERT INTO kinds VALUES (?, ?, ?, ?, ?, ?, ?)", [(number, *kind) for number, kind in enumerate(_KINDS)]
    )
    ends = [end for count, *end in _ENDS for _ in range(count)]
    connection.executemany(
        "INSERT INTO ends VALUES (?, ?, ?, ?, ?, ?)", [(number, *end) for number, end in enumerate(ends)]
    )
