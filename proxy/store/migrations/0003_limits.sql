-- What tenants, their keys and whoever is on a plan may use.

ALTER TABLE tenants ADD COLUMN plan TEXT NOT NULL DEFAULT '';  -- whose limits hold for it as well
ALTER TABLE tenants ADD COLUMN anchor_ms INTEGER;              -- when its first billing period began; null: when it was made

CREATE TABLE limits (
    owner_kind TEXT NOT NULL CHECK (owner_kind IN ('plan', 'tenant', 'key')),
    owner      TEXT NOT NULL,
    unit       TEXT NOT NULL,              -- proxy.limits.Unit
    span       TEXT NOT NULL,              -- proxy.limits.Window
    model      TEXT NOT NULL,              -- a pattern; '' for every model
    kind       TEXT NOT NULL,              -- of tokens; '' for all
    value      INTEGER NOT NULL,
    soft       INTEGER NOT NULL,
    PRIMARY KEY (owner_kind, owner, unit, span, model, kind)
) WITHOUT ROWID;

-- Prepaid amounts, which are added to a tenant's limits over all time.
CREATE TABLE top_ups (
    id        TEXT PRIMARY KEY,
    tenant_id TEXT NOT NULL REFERENCES tenants (id),
    unit      TEXT NOT NULL,
    amount    INTEGER NOT NULL,
    time_ms   INTEGER NOT NULL,
    note      TEXT NOT NULL
);
CREATE INDEX top_ups_by_tenant ON top_ups (tenant_id);

-- What a key has used, whoever it acted for.
CREATE INDEX rollups_by_key ON rollups (key_id, hour);

ALTER TABLE events ADD COLUMN over_limit TEXT NOT NULL DEFAULT ''; -- the soft limit that it passed

CREATE TRIGGER limits_inserted AFTER INSERT ON limits BEGIN UPDATE revision SET number = number + 1; END;
CREATE TRIGGER limits_updated AFTER UPDATE ON limits BEGIN UPDATE revision SET number = number + 1; END;
CREATE TRIGGER limits_deleted AFTER DELETE ON limits BEGIN UPDATE revision SET number = number + 1; END;
CREATE TRIGGER top_ups_inserted AFTER INSERT ON top_ups BEGIN UPDATE revision SET number = number + 1; END;
