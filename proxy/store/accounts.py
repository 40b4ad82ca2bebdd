"""The SQL of tenants, their keys, limits and subscriptions, and of what is declared, each with one line of purpose."""

from __future__ import annotations

# The keys of a tenant, and of the one that a key belongs to.
KEY_NAMES = "SELECT id, name FROM keys WHERE tenant_id IN (?, (SELECT tenant_id FROM keys WHERE id = ?))"

# Who changes it: managed by command, declared in a file, or declared once and withdrawn.
_ORIGIN = "coalesce((SELECT state FROM declared WHERE owner_kind = '{0}' AND owner = {0}s.id), 'managed')"
_SUSPENDED = "(SELECT min(start_ms) FROM suspensions WHERE tenant_id = tenants.id AND end_ms IS NULL)"
_TENANT_COLUMNS = (
    f"id, name, status, created_ms, upstream_key, plan, coalesce(anchor_ms, created_ms), {_ORIGIN.format('tenant')},"
    f" {_SUSPENDED}"
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
CALLER = f"""
    SELECT
        keys.id, keys.tenant_id, tenants.status, keys.models, keys.trusted, keys.expires_ms, tenants.upstream_key,
        {_SUSPENDED}, keys.hash
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

# What the admin API has answered to requests with an Idempotency-Key: for a day.
ANSWERED = "SELECT request, answer FROM answered WHERE key = ?"
NOTE_ANSWERED = "INSERT INTO answered (key, request, answer, time_ms) VALUES (?, ?, ?, ?)"
FORGET_ANSWERED = "DELETE FROM answered WHERE time_ms < ?"

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
# Whose a key is, by its hash.
KEY_OWNER = "SELECT tenant_id FROM keys WHERE hash = ?"
