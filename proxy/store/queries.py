"""The SQL, named, with one line of purpose each."""

from __future__ import annotations

from itertools import combinations

from proxy.model import BUCKETS, COSTS, UNITS, EventState

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
# The first and the last hour between two in which something was used.
_USAGE_HOURS = "SELECT (SELECT min(hour) FROM rollups WHERE {0}), (SELECT max(hour) FROM rollups WHERE {0})"
USAGE_HOURS = _USAGE_HOURS.format("hour >= ? AND hour < ?")
USAGE_HOURS_OF_SUBJECT = _USAGE_HOURS.format("subject = ? AND hour >= ? AND hour < ?")
# The models of which something has no price, between two hours.
UNPRICED_MODELS = """
    SELECT model, sum(unpriced_requests), sum(unpriced_tokens) FROM rollups INDEXED BY rollups_by_hour
    WHERE hour >= ? AND hour < ? AND unpriced_requests > 0 GROUP BY model ORDER BY 2 DESC, 1
"""
HAS_USAGE = "SELECT 1 FROM rollups WHERE subject = ? LIMIT 1"
# The keys of a tenant, and of the one that a key belongs to.
KEY_NAMES = "SELECT id, name FROM keys WHERE tenant_id IN (?, (SELECT tenant_id FROM keys WHERE id = ?))"

# Who changes it: managed by command, declared in a file, or declared once and withdrawn.
_ORIGIN = "coalesce((SELECT state FROM declared WHERE owner_kind = '{0}' AND owner = {0}s.id), 'managed')"
_TENANT_COLUMNS = (
    f"id, name, status, created_ms, upstream_key, plan, coalesce(anchor_ms, created_ms), {_ORIGIN.format('tenant')}"
)
INSERT_TENANT = """
    INSERT INTO tenants (id, name, status, created_ms, upstream_key, plan) VALUES (?, ?, 'active', ?, ?, ?)
"""
TENANT = f"SELECT {_TENANT_COLUMNS} FROM tenants WHERE id = ?"
TENANTS = f"SELECT {_TENANT_COLUMNS} FROM tenants WHERE id > ? ORDER BY id LIMIT ?"
TENANTS_ON_PLANS = "SELECT plan, count(*) FROM tenants WHERE plan != '' GROUP BY plan"
TENANT_COUNT = "SELECT count(*) FROM tenants"
SET_TENANT_STATUS = "UPDATE tenants SET status = ? WHERE id = ?"
SET_UPSTREAM_KEY = "UPDATE tenants SET upstream_key = ? WHERE id = ?"
SET_PLAN = "UPDATE tenants SET plan = ? WHERE id = ?"
SET_ANCHOR = "UPDATE tenants SET anchor_ms = ? WHERE id = ?"

INSERT_KEY = """
    INSERT INTO keys (id, tenant_id, name, hash, hint, models, trusted, created_ms, expires_ms)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_KEY_COLUMNS = f"""
    keys.id, tenant_id, keys.name, hint, models, trusted, keys.created_ms, expires_ms, revoked_ms,
    {_ORIGIN.format("key")}
"""
KEY = f"SELECT {_KEY_COLUMNS} FROM keys WHERE id = ?"
# All keys, or one tenant's, behind the one that is named.
KEYS = f"""
    SELECT {_KEY_COLUMNS} FROM keys WHERE (? = '' OR tenant_id = ?) AND (tenant_id, created_ms, id) > (
        coalesce((SELECT tenant_id FROM keys WHERE id = ?), ''),
        coalesce((SELECT created_ms FROM keys WHERE id = ?), -1),
        ?
    ) ORDER BY tenant_id, created_ms, id LIMIT ?
"""
KEY_HASH = "SELECT hash FROM keys WHERE id = ?"
REVOKE_KEY = "UPDATE keys SET revoked_ms = ? WHERE id = ? AND revoked_ms IS NULL"
EXPIRE_KEY = "UPDATE keys SET expires_ms = ? WHERE id = ? AND (expires_ms IS NULL OR expires_ms > ?)"

# Who a key (by its hash) belongs to, unless it was revoked.
CALLER = """
    SELECT
        keys.id, keys.tenant_id, tenants.status, keys.models, keys.trusted, keys.expires_ms, tenants.upstream_key,
        keys.hash
    FROM keys JOIN tenants ON tenants.id = keys.tenant_id WHERE keys.hash = ? AND keys.revoked_ms IS NULL
"""

# A limit set or changed, and taken away; those of one owner; and all that hold for a tenant or a key of its.
SET_LIMIT = """
    INSERT INTO limits (owner_kind, owner, unit, span, model, kind, value, soft) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET value = excluded.value, soft = excluded.soft
"""
UNSET_LIMIT = """
    DELETE FROM limits WHERE owner_kind = ? AND owner = ? AND unit = ? AND span = ? AND model = ? AND kind = ?
"""
LIMITS_OF = """
    SELECT owner_kind, owner, unit, span, model, kind, value, soft FROM limits
    WHERE owner_kind = ? AND owner = ? ORDER BY unit, span, model, kind
"""
PLANS = "SELECT DISTINCT owner FROM limits WHERE owner_kind = 'plan' ORDER BY owner"

# A prepaid amount, once for each id; and what a tenant has of each unit.
INSERT_TOP_UP = """
    INSERT INTO top_ups (id, tenant_id, unit, amount, time_ms, note) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING
"""
TOP_UP = "SELECT tenant_id, unit, amount FROM top_ups WHERE id = ?"
# Prepaid amounts, all or one tenant's, the newest first, from before one on where it is named.
TOP_UPS = f"""
    SELECT id, tenant_id, unit, amount, time_ms, note FROM top_ups
    WHERE (? = '' OR tenant_id = ?) AND rowid < coalesce((SELECT rowid FROM top_ups WHERE id = ?), {2**63 - 1})
    ORDER BY rowid DESC LIMIT ?
"""
# (In two parts, as all sums of what may be money.)
TOP_UP_SUMS = """
    SELECT unit, sum(amount / 1000000), sum(amount % 1000000) FROM top_ups WHERE tenant_id = ? GROUP BY unit
"""

# What a tenant, or a key, used by model: in whole hours; and between two instants, for hours that are cut.
_SPENT = f"SELECT model, {_SUMS} FROM rollups WHERE %s = ? AND hour >= ? AND hour < ? GROUP BY model"
SPENT_BY = {"tenant": _SPENT % "subject", "key": _SPENT % "key_id"}
SPENT_LATELY = f"""
    SELECT subject, key_id, model, time_ms, cost_pico_usd, {", ".join(BUCKETS)}
    FROM events INDEXED BY events_by_time
    WHERE time_ms >= ? AND time_ms < ?
"""

# What others have recorded since this process last looked.
EVENTS_BETWEEN = f"SELECT {_EVENT_COLUMNS} FROM events WHERE seq > ? AND seq <= ? ORDER BY seq"

# Counted up by every change of tenants, keys and limits.
REVISION = "SELECT number FROM revision"

# What a file declares: which file, and where something stands; and what was withdrawn, taken over by command.
DECLARATION = "SELECT file, digest, applied_ms FROM declaration"
DECLARED_STATE = "SELECT state FROM declared WHERE owner_kind = ? AND owner = ?"
FORGET_DECLARED = "DELETE FROM declared WHERE owner_kind = ? AND owner = ?"
FORGET_DECLARED_KEYS = """
    DELETE FROM declared WHERE owner_kind = 'key' AND owner IN (SELECT id FROM keys WHERE tenant_id = ?)
"""

# All that is or was declared, to compare a declaration with; and what is not, to take under one.
DECLARED_PLANS = "SELECT owner, state FROM declared WHERE owner_kind = 'plan'"
_DECLARED_TENANT_COLUMNS = "tenants.id, name, status, upstream_key, plan, anchor_ms"
DECLARED_TENANTS = f"""
    SELECT {_DECLARED_TENANT_COLUMNS}, state FROM declared JOIN tenants ON tenants.id = declared.owner
    WHERE owner_kind = 'tenant'
"""
UNDECLARED_TENANT = f"SELECT {_DECLARED_TENANT_COLUMNS}, '' FROM tenants WHERE id = ?"
_DECLARED_KEY_COLUMNS = "hash, keys.id, tenant_id, name, models, trusted, expires_ms, revoked_ms"
DECLARED_KEYS = f"""
    SELECT {_DECLARED_KEY_COLUMNS}, state FROM declared JOIN keys ON keys.id = declared.owner WHERE owner_kind = 'key'
"""
UNDECLARED_KEY = f"SELECT {_DECLARED_KEY_COLUMNS}, '' FROM keys WHERE hash = ?"
UNDECLARED_KEYS_OF = f"SELECT {_DECLARED_KEY_COLUMNS}, '' FROM keys WHERE tenant_id = ?"
DECLARED_LIMITS = """
    SELECT limits.owner_kind, limits.owner, unit, span, model, kind, value, soft FROM declared
    JOIN limits ON limits.owner_kind = declared.owner_kind AND limits.owner = declared.owner
"""

# A declaration written: all in one transaction, and of it only what changes.
SET_DECLARATION = "UPDATE declaration SET file = ?, digest = ?, applied_ms = ?"
SET_DECLARED = """
    INSERT INTO declared (owner_kind, owner, state) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET state = excluded.state
"""
DECLARE_TENANT = """
    INSERT INTO tenants (id, name, status, upstream_key, plan, anchor_ms, created_ms) VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET
        name = excluded.name, status = excluded.status, upstream_key = excluded.upstream_key, plan = excluded.plan,
        anchor_ms = excluded.anchor_ms
"""
DECLARE_KEY = """
    INSERT INTO keys (hash, id, tenant_id, name, models, trusted, expires_ms, hint, created_ms)
    VALUES (?, ?, ?, ?, ?, ?, ?, '', ?)
    ON CONFLICT DO UPDATE SET
        name = excluded.name, models = excluded.models, trusted = excluded.trusted, expires_ms = excluded.expires_ms,
        revoked_ms = NULL
"""

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

# What the admin API has answered to requests with an Idempotency-Key: for a day.
ANSWERED = "SELECT request, answer FROM answered WHERE key = ?"
NOTE_ANSWERED = "INSERT INTO answered (key, request, answer, time_ms) VALUES (?, ?, ?, ?)"
FORGET_ANSWERED = "DELETE FROM answered WHERE time_ms < ?"

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

# Keys that are used up by time between two instants, of tenants that may use them.
KEYS_EXPIRING = f"""
    SELECT {_KEY_COLUMNS} FROM keys JOIN tenants ON tenants.id = keys.tenant_id
    WHERE keys.expires_ms > ? AND keys.expires_ms <= ? AND keys.revoked_ms IS NULL AND tenants.status = 'active'
    ORDER BY keys.expires_ms
"""

# Plans as they were when somebody subscribed.
LATEST_PLAN_VERSION = "SELECT version, document FROM plan_versions WHERE plan = ? ORDER BY version DESC LIMIT 1"
INSERT_PLAN_VERSION = "INSERT INTO plan_versions (plan, version, document) VALUES (?, ?, ?)"
PLAN_VERSION = "SELECT document FROM plan_versions WHERE plan = ? AND version = ?"

# Subscriptions: made, ended, and those of one tenant or ('') of all.
INSERT_SUBSCRIPTION = """
    INSERT INTO subscriptions (tenant_id, plan, version, zone, anchor_ms, start_ms) VALUES (?, ?, ?, ?, ?, ?)
"""
END_SUBSCRIPTION = "UPDATE subscriptions SET end_ms = ? WHERE id = ? AND end_ms IS NULL"
SUBSCRIPTIONS = """
    SELECT id, tenant_id, plan, version, zone, anchor_ms, start_ms, end_ms FROM subscriptions
    WHERE ? = '' OR tenant_id = ? ORDER BY tenant_id, start_ms, id
"""

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
# Whose a key is, by its hash.
KEY_OWNER = "SELECT tenant_id FROM keys WHERE hash = ?"
