"""The SQL, named, with one line of purpose each."""

from __future__ import annotations

from proxy.model import BUCKETS, UNITS, EventState

_EVENT_COLUMNS = (
    "id, subject, key_id, time_ms, endpoint, requested_model, model, provider, streamed, status, outcome, "
    + ", ".join(BUCKETS)
    + ", usage_source, duration_ms, ttft_ms, "
    + ", ".join(UNITS)
    + ", upstream, usage_path, estimator, on_disconnect, response_id"
)
_AMOUNTS = ("requests", *BUCKETS, *UNITS)
_EVENT_COLUMN_COUNT = _EVENT_COLUMNS.count(",") + 1
# A sum of two that passes SQLite's integers would be a float; it stops at the largest integer.
_ADDITIONS = ", ".join(f"{name} = min({name} + excluded.{name}, {2**63 - 1})" for name in _AMOUNTS)
_SUMS = ", ".join(f"sum({name})" for name in _AMOUNTS)

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

# The oldest events that the sink has not accepted, in the order of their commits.
PENDING_EVENTS = f"""
    SELECT {_EVENT_COLUMNS}, attempts FROM events INDEXED BY events_pending
    WHERE state = 'pending' ORDER BY seq LIMIT ?
"""

# Events moved by the relay: the ids are a JSON array. The plus has SQLite look them up by id, and not walk all that
# is pending (126 ms for a hundred of a million).
MOVE_EVENTS = """
    UPDATE events SET state = ?, attempts = attempts + 1, error = ?, delivered_ms = ?
    WHERE +state = 'pending' AND id IN (SELECT value FROM json_each(?))
"""

# A failed try that leaves events pending.
NOTE_FAILURE = """
    UPDATE events SET attempts = attempts + 1, error = ?
    WHERE +state = 'pending' AND id IN (SELECT value FROM json_each(?))
"""

# The backlog: how many events are pending, from the index alone, and the time of the one recorded first.
PENDING_COUNT = """
    SELECT
        count(*),
        (SELECT time_ms FROM events INDEXED BY events_pending WHERE state = 'pending' ORDER BY seq LIMIT 1)
    FROM events INDEXED BY events_pending WHERE state = 'pending'
"""

# Dead letters.
DEAD_COUNT = "SELECT count(*) FROM events INDEXED BY events_dead WHERE state = 'dead'"

# Every event ever recorded, from the counters.
EVENT_COUNT = "SELECT coalesce(sum(requests), 0) FROM rollups"

# One event, with how its delivery stands.
EVENT = f"SELECT {_EVENT_COLUMNS}, state, attempts, error, delivered_ms FROM events WHERE id = ?"

# The newest events, all or of one subject or state.
EVENTS_NEWEST = f"SELECT {_EVENT_COLUMNS}, state, attempts, error, delivered_ms FROM events ORDER BY seq DESC LIMIT ?"
EVENTS_OF_SUBJECT = f"""
    SELECT {_EVENT_COLUMNS}, state, attempts, error, delivered_ms FROM events
    WHERE subject = ? ORDER BY seq DESC LIMIT ?
"""
# The state is written out: with a bound one the index of pending or dead events could not serve.
EVENTS_IN_STATE = {
    state: f"""
        SELECT {_EVENT_COLUMNS}, state, attempts, error, delivered_ms FROM events {index}
        WHERE state = '{state}' AND (? = '' OR subject = ?) ORDER BY seq DESC LIMIT ?
    """
    for state, index in (
        (EventState.PENDING, "INDEXED BY events_pending"),
        (EventState.ACCEPTED, ""),
        (EventState.DEAD, "INDEXED BY events_dead"),
        (EventState.DISCARDED, ""),
    )
}

# Usage between two hours, per subject, model, endpoint and source; of all subjects, or of one.
_USAGE = f"""
    SELECT subject, model, endpoint, usage_source, {_SUMS} FROM rollups
    WHERE hour >= ? AND hour < ? %s
    GROUP BY subject, model, endpoint, usage_source ORDER BY subject, model, endpoint, usage_source
"""
USAGE = _USAGE % ""
USAGE_OF_SUBJECT = _USAGE % "AND subject = ?"

INSERT_TENANT = "INSERT INTO tenants (id, name, status, created_ms) VALUES (?, ?, 'active', ?)"
TENANT = "SELECT id, name, status, created_ms FROM tenants WHERE id = ?"
TENANTS = "SELECT id, name, status, created_ms FROM tenants ORDER BY id"
TENANT_COUNT = "SELECT count(*) FROM tenants"
SET_TENANT_STATUS = "UPDATE tenants SET status = ? WHERE id = ?"

INSERT_KEY = """
    INSERT INTO keys (id, tenant_id, name, hash, hint, models, trusted, created_ms, expires_ms)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_KEY_COLUMNS = "id, tenant_id, name, hint, models, trusted, created_ms, expires_ms, revoked_ms"
KEY = f"SELECT {_KEY_COLUMNS} FROM keys WHERE id = ?"
KEYS = f"SELECT {_KEY_COLUMNS} FROM keys WHERE ? = '' OR tenant_id = ? ORDER BY tenant_id, created_ms, id"
REVOKE_KEY = "UPDATE keys SET revoked_ms = ? WHERE id = ? AND revoked_ms IS NULL"
EXPIRE_KEY = "UPDATE keys SET expires_ms = ? WHERE id = ? AND (expires_ms IS NULL OR expires_ms > ?)"

# Who a key (by its hash) belongs to, unless it was revoked.
CALLER = """
    SELECT keys.id, keys.tenant_id, tenants.status, keys.models, keys.trusted, keys.expires_ms, keys.hash
    FROM keys JOIN tenants ON tenants.id = keys.tenant_id WHERE keys.hash = ? AND keys.revoked_ms IS NULL
"""

# Counted up by every change of tenants and keys.
REVISION = "SELECT number FROM revision"

# A background response to ask for until its usage is known.
INSERT_FOLLOWUP = """
    INSERT INTO followups (id, response_id, settlement, tries, next_ms, until_ms) VALUES (?, ?, ?, 0, ?, ?)
"""
# Those that are due, the longest waiting first; and when the next one is.
FOLLOWUPS_DUE = """
    SELECT response_id, settlement, tries, until_ms FROM followups WHERE next_ms <= ? ORDER BY next_ms LIMIT ?
"""
NEXT_FOLLOWUP = "SELECT min(next_ms) FROM followups"
POSTPONE_FOLLOWUP = "UPDATE followups SET tries = tries + 1, next_ms = ? WHERE id = ?"
DELETE_FOLLOWUP = "DELETE FROM followups WHERE id = ?"

# A response to a request with an Idempotency-Key: seen for the first time, if a row was inserted.
NOTE_IDEMPOTENT = "INSERT INTO idempotent (subject, response_id, time_ms) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
FORGET_IDEMPOTENT = "DELETE FROM idempotent WHERE time_ms < ?"
