"""The SQL, named, with one line of purpose each."""

from __future__ import annotations

from itertools import combinations

from proxy.instants import HOUR_MS as _HOUR_MS
from proxy.model import BUCKETS, COSTS, UNITS, CostState, EventState

_EVENT_COLUMNS = (
    "id, subject, key_id, time_ms, endpoint, requested_model, model, provider, streamed, status, outcome, "
    + ", ".join(BUCKETS)
    + ", usage_source, duration_ms, ttft_ms, "
    + ", ".join(UNITS)
    + ", upstream, usage_path, estimator, on_disconnect, response_id, over_limit"
    + ", cost_pico_usd, cost_state, service_tier"
)
_AMOUNTS = ("requests", *BUCKETS, *UNITS, *COSTS)
_EVENT_COLUMN_COUNT = _EVENT_COLUMNS.count(",") + 1
# A sum of two that passes SQLite's integers would be a float; it stops at the largest integer.
_ADDITIONS = ", ".join(f"{name} = min({name} + excluded.{name}, {2**63 - 1})" for name in _AMOUNTS)
# Sums of money may pass SQLite's integers, which is an error: whole millionths of a dollar apart, and the rest.
_SUMS = ", ".join(
    "sum(cost_pico_usd / 1000000), sum(cost_pico_usd - cost_pico_usd / 1000000 * 1000000)"
    if name == "cost_pico_usd"
    else f"sum({name})"
    for name in _AMOUNTS
)

# Record one settlement: its event waits in the outbox.
INSERT_EVENT = f"""
    INSERT INTO events ({_EVENT_COLUMNS}, state) VALUES ({", ".join("?" * _EVENT_COLUMN_COUNT)}, 'pending')
"""

# Whether a request is settled, or is going to be when its background response has ended.
IS_KNOWN = "SELECT 1 FROM events WHERE id = ? UNION ALL SELECT 1 FROM followups WHERE id = ?"

# Add the sums of a batch of settlements to one rollup.
ADD_TO_ROLLUP = f"""
    INSERT INTO rollups (subject, hour, model, endpoint, key_id, usage_source, {", ".join(_AMOUNTS)})
    VALUES ({", ".join("?" * (6 + len(_AMOUNTS)))})
    ON CONFLICT DO UPDATE SET {_ADDITIONS}
"""

# Bytes that are written only to see whether they can be, and taken back.
INSERT_PROBE = "INSERT INTO probe VALUES (zeroblob(?))"
DELETE_PROBES = "DELETE FROM probe"

# The events that the sink has not accepted, in the order of their commits: the oldest first, or the newest.
PENDING_EVENTS, PENDING_EVENTS_NEWEST = (
    f"""
        SELECT {_EVENT_COLUMNS}, attempts FROM events INDEXED BY events_pending
        WHERE state = 'pending' ORDER BY seq {direction} LIMIT ?
    """
    for direction in ("ASC", "DESC")
)

# Events and notifications moved, each move from its one state alone: what it notes, and the ids as a JSON array. The
# plus has SQLite look them up by id, and not walk all that is pending (126 ms for a hundred of a million).
_MOVES = (
    (EventState.PENDING, EventState.ACCEPTED, ", attempts = attempts + 1, error = '', delivered_ms = ?", ""),
    (EventState.PENDING, EventState.DEAD, ", attempts = attempts + 1, error = ?", ""),
    (EventState.DEAD, EventState.PENDING, "", ""),
    (EventState.DEAD, EventState.DISCARDED, ", reason = ?", ""),
    (EventState.DISCARDED, EventState.PENDING, "", ""),
    (EventState.ACCEPTED, EventState.PENDING, ", delivered_ms = NULL", " AND delivered_ms <= ?"),
)
MOVE_EVENTS, MOVE_NOTIFICATIONS = (
    {
        (before, after): f"""
            UPDATE {table} SET state = '{after}'{noted}
            WHERE +state = '{before}' AND id IN (SELECT value FROM json_each(?)){unless}
        """
        for before, after, noted, unless in _MOVES
    }
    for table in ("events", "notifications")
)

# A failed try that leaves them pending.
NOTE_FAILURE, NOTE_NOTIFICATION_FAILURE = (
    f"""
        UPDATE {table} SET attempts = attempts + 1, error = ?
        WHERE +state = 'pending' AND id IN (SELECT value FROM json_each(?))
    """
    for table in ("events", "notifications")
)

# The backlog: how many events are pending, from the index alone, and the time of the one recorded first.
PENDING_COUNT = """
    SELECT
        count(*),
        (SELECT time_ms FROM events INDEXED BY events_pending WHERE state = 'pending' ORDER BY seq LIMIT 1)
    FROM events INDEXED BY events_pending WHERE state = 'pending'
"""

# The tokens of pending events, by subject.
UNDELIVERED = f"""
    SELECT subject, sum({" + ".join(BUCKETS)}) FROM events INDEXED BY events_pending
    WHERE state = 'pending' GROUP BY subject
"""

# Dead letters, and those of them that a person gave up.
DEAD_COUNT = "SELECT count(*) FROM events INDEXED BY events_dead WHERE state = 'dead'"
DISCARDED_COUNT = "SELECT count(*) FROM events INDEXED BY events_discarded WHERE state = 'discarded'"

# Every event ever recorded, from the counters.
EVENT_COUNT = "SELECT coalesce(sum(requests), 0) FROM rollups"

# One event, with how its delivery stands.
_DELIVERY_COLUMNS = f"{_EVENT_COLUMNS}, state, attempts, error, delivered_ms, reason"
EVENT = f"SELECT {_DELIVERY_COLUMNS} FROM events WHERE id = ?"

# What a person asks for: a subject and a part of the receiver's words ('' for any), and when the request arrived. The
# plus keeps SQLite from the index of the times, whose order is another.
_WANTED = """
    (? = '' OR subject = ?) AND (? = '' OR instr(lower(error), lower(?))) AND +time_ms >= ? AND +time_ms < ?
"""
# The newest events, all or those in one state, from before an event on where one is named. The state is written out:
# with a bound one no index of a state serves.
EVENTS_NEWEST: dict[EventState | None, str] = {
    state: f"""
        SELECT {_DELIVERY_COLUMNS} FROM events {where} {_WANTED}
        AND seq < coalesce((SELECT seq FROM events WHERE id = ?), {2**63 - 1}) ORDER BY seq DESC LIMIT ?
    """
    for state, where in (
        (None, "WHERE"),
        (EventState.PENDING, "INDEXED BY events_pending WHERE state = 'pending' AND"),
        (EventState.ACCEPTED, "WHERE state = 'accepted' AND"),
        (EventState.DEAD, "INDEXED BY events_dead WHERE state = 'dead' AND"),
        (EventState.DISCARDED, "INDEXED BY events_discarded WHERE state = 'discarded' AND"),
    )
}

# Dead letters in the order of their commits, a page at a time; and where the ledger ends.
DEAD_LETTERS = f"""
    SELECT seq, id, time_ms FROM events INDEXED BY events_dead
    WHERE state = 'dead' AND seq > ? AND seq <= ? AND {_WANTED} ORDER BY seq LIMIT ?
"""
LAST_SEQ = "SELECT coalesce(max(seq), 0) FROM events"
STATE_OF = "SELECT state, time_ms FROM events WHERE id = ?"

# Usage between two hours by source, and by any of these columns: of all subjects, or of one.
_USAGE_COLUMNS = ("subject", "model", "endpoint", "key_id")
_USAGE = f"SELECT %s, {_SUMS} FROM rollups %s GROUP BY %s"
USAGE, USAGE_OF_SUBJECT = (
    {
        columns: _USAGE % (", ".join((*columns, "usage_source")), where, ", ".join((*columns, "usage_source")))
        for count in range(len(_USAGE_COLUMNS) + 1)
        for columns in combinations(_USAGE_COLUMNS, count)
    }
    for where in (
        "INDEXED BY rollups_by_hour WHERE hour >= ? AND hour < ?",
        "WHERE subject = ? AND hour >= ? AND hour < ?",
    )
)
# The same of one subject's events that were recorded between two rows, by the hour as well. The plus keeps SQLite from
# the index of the times, which finds all events of the period.
_OF_EVENTS = {
    "requests": "1",
    "priced_requests": f"cost_state = '{CostState.PRICED}'",
    "free_requests": f"cost_state = '{CostState.FREE}'",
    "unpriced_requests": f"cost_state = '{CostState.UNPRICED}'",
    "unpriced_tokens": f"(cost_state = '{CostState.UNPRICED}') * ({' + '.join(BUCKETS)})",
}
_AS_ROLLUPS = ", ".join(f"{_OF_EVENTS.get(name, name)} AS {name}" for name in _AMOUNTS)
USAGE_SINCE = {
    columns: f"""
        SELECT hour, {", ".join((*columns, "usage_source"))}, {_SUMS} FROM (
            SELECT time_ms / {_HOUR_MS} AS hour, {", ".join((*columns, "usage_source"))}, {_AS_ROLLUPS} FROM events
            WHERE seq > ? AND seq <= ? AND subject = ? AND +time_ms >= ? AND +time_ms < ?
        ) GROUP BY hour, {", ".join((*columns, "usage_source"))}
    """
    for columns in USAGE_OF_SUBJECT
}
# Where the ledger ends, and what it is that ends there; what stands in one place; and what changes with a migration.
LAST_EVENT = "SELECT seq, id FROM events ORDER BY seq DESC LIMIT 1"
EVENT_ID_AT = "SELECT id FROM events WHERE seq = ?"
SCHEMA_STAMP = "SELECT schema_version, user_version FROM pragma_schema_version, pragma_user_version"
# The first and the last hour between two in which something was used.
_USAGE_HOURS = "SELECT (SELECT min(hour) FROM rollups WHERE {0}), (SELECT max(hour) FROM rollups WHERE {0})"
USAGE_HOURS = _USAGE_HOURS.format("hour >= ? AND hour < ?")
USAGE_HOURS_OF_SUBJECT = _USAGE_HOURS.format("subject = ? AND hour >= ? AND hour < ?")
# The models of which something has no price, between two hours.
UNPRICED_MODELS = """
    SELECT model, sum(unpriced_requests), sum(unpriced_tokens) FROM rollups INDEXED BY rollups_by_hour
    WHERE hour >= ? AND hour < ? AND unpriced_requests > 0 GROUP BY model ORDER BY 2 DESC, 1
"""
# The hour that a subject was first recorded in, and the first instant in a span of them.
FIRST_HOUR = "SELECT min(hour) FROM rollups WHERE subject = ?"
FIRST_EVENT = "SELECT min(time_ms) FROM events WHERE time_ms >= ? AND time_ms < ? AND subject = ?"
HAS_USAGE = "SELECT 1 FROM rollups WHERE subject = ? LIMIT 1"

# What a tenant, or a key, used by model: in whole hours; and between two instants, for hours that are cut.
_SPENT = f"SELECT model, {_SUMS} FROM rollups WHERE %s = ? AND hour >= ? AND hour < ? GROUP BY model"
SPENT_BY = {"tenant": _SPENT % "subject", "key": _SPENT % "key_id"}
# Whether it used anything since an hour began.
_SPENT_SINCE = "SELECT 1 FROM rollups WHERE %s = ? AND hour >= ? LIMIT 1"
SPENT_SINCE = {"tenant": _SPENT_SINCE % "subject", "key": _SPENT_SINCE % "key_id"}
_SPENT_LATELY = f"""
    SELECT model, time_ms, cost_pico_usd, {", ".join(BUCKETS)}
    FROM events INDEXED BY events_by_time
    WHERE time_ms >= ? AND time_ms < ? AND %s = ?
"""
SPENT_LATELY_BY = {"tenant": _SPENT_LATELY % "subject", "key": _SPENT_LATELY % "key_id"}

# What others have recorded since this process last looked.
EVENTS_BETWEEN = f"SELECT {_EVENT_COLUMNS} FROM events WHERE seq > ? AND seq <= ? ORDER BY seq"

# A background response to ask for until its usage is known.
INSERT_FOLLOWUP = """
    INSERT INTO followups (id, response_id, settlement, tries, next_ms, until_ms, upstream_key)
    VALUES (?, ?, ?, 0, ?, ?, ?)
"""
# Those that are due, the longest waiting first; those of one response; and when the next one is.
_FOLLOWUP = "SELECT response_id, settlement, tries, until_ms, upstream_key FROM followups"
FOLLOWUPS_DUE = f"{_FOLLOWUP} WHERE next_ms <= ? ORDER BY next_ms LIMIT ?"
FOLLOWUPS_OF_RESPONSE = f"{_FOLLOWUP} WHERE response_id = ?"
NEXT_FOLLOWUP = "SELECT min(next_ms) FROM followups"
POSTPONE_FOLLOWUP = "UPDATE followups SET tries = tries + 1, next_ms = ? WHERE id = ?"
DELETE_FOLLOWUP = "DELETE FROM followups WHERE id = ?"

# What a tenant has made upstream: remembered once, for the first who is told; whose it is; and gone.
INSERT_OWNED = "INSERT INTO owned (id, subject, time_ms) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
OWNER = "SELECT subject FROM owned WHERE id = ?"
DELETE_OWNED = "DELETE FROM owned WHERE id = ?"

# A response to a request with an Idempotency-Key: seen for the first time, if a row was inserted.
NOTE_IDEMPOTENT = "INSERT INTO idempotent (subject, response_id, time_ms) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
FORGET_IDEMPOTENT = "DELETE FROM idempotent WHERE time_ms < ?"

# The events in the order of their requests' arrival, from one on, for a reconciliation; and one of them.
_RECORDED = f"SELECT {_EVENT_COLUMNS}, state, delivered_ms, time_ms, seq FROM events"
EVENTS_BY_TIME = f"""
    {_RECORDED} INDEXED BY events_by_time WHERE (time_ms, seq) > (?, ?) AND time_ms < ? ORDER BY time_ms, seq LIMIT ?
"""
EVENT_RECORDED = f"{_RECORDED} WHERE id = ?"
FOLLOWUP_COUNT = "SELECT count(*) FROM followups"

# Accepted events that the receiver does not have, for the relay to send again; and one that was sent once more.
SEND_AGAIN = MOVE_EVENTS[EventState.ACCEPTED, EventState.PENDING]
NOTE_SENT = "UPDATE events SET attempts = attempts + 1, delivered_ms = ? WHERE +state = 'accepted' AND id = ?"

# Something to tell, once; those that are not told yet, the oldest first or the newest; and how many there are.
_NOTIFICATION_COLUMNS = "id, type, subject, about, body, time_ms"
INSERT_NOTIFICATION = f"""
    INSERT INTO notifications ({_NOTIFICATION_COLUMNS}, state) VALUES (?, ?, ?, ?, ?, ?, 'pending')
    ON CONFLICT (about) DO NOTHING
"""
PENDING_NOTIFICATIONS, PENDING_NOTIFICATIONS_NEWEST = (
    f"""
        SELECT {_NOTIFICATION_COLUMNS} FROM notifications INDEXED BY notifications_pending
        WHERE state = 'pending' ORDER BY seq {direction} LIMIT ?
    """
    for direction in ("ASC", "DESC")
)
NOTIFICATION_COUNTS = """
    SELECT
        (SELECT count(*) FROM notifications INDEXED BY notifications_pending WHERE state = 'pending'),
        (SELECT count(*) FROM notifications INDEXED BY notifications_dead WHERE state = 'dead')
"""
# One of them with how its delivery stands, and the newest: in one state, of one type and tenant, or ('') of any.
_NOTIFICATION = f"SELECT {_NOTIFICATION_COLUMNS}, state, attempts, error, delivered_ms, reason FROM notifications"
NOTIFICATION = f"{_NOTIFICATION} WHERE id = ?"
NOTIFICATIONS_NEWEST = f"""
    {_NOTIFICATION}
    WHERE (? = '' OR state = ?) AND (? = '' OR type = ?) AND (? = '' OR subject = ?) ORDER BY seq DESC LIMIT ?
"""
DEAD_NOTIFICATIONS = "SELECT id FROM notifications INDEXED BY notifications_dead WHERE state = 'dead' ORDER BY seq"

# Up to which settlement all is noted that was to be told: begun where the ledger ends, moved on, and forgotten.
NOTED = "SELECT seq FROM noted"
BEGIN_NOTING = f"INSERT INTO noted SELECT ({LAST_SEQ}) WHERE NOT EXISTS (SELECT 1 FROM noted)"
MOVE_NOTED = "UPDATE noted SET seq = max(seq, ?)"
END_NOTING = "DELETE FROM noted"

# What a subject used, in whole hours by what rollups tell apart; and event by event, in the order of time. The latter
# walks all subjects' events, an eighth of a microsecond each; an index by subject would cost each 3 µs when recorded.
METERED_HOURS = f"""
    SELECT model, endpoint, usage_source, {_SUMS} FROM rollups WHERE subject = ? AND hour >= ? AND hour < ?
    GROUP BY model, endpoint, usage_source
"""
METERED_EVENTS = f"""
    SELECT {_EVENT_COLUMNS} FROM events INDEXED BY events_by_time
    WHERE time_ms >= ? AND time_ms < ? AND subject = ? ORDER BY time_ms, seq
"""
