-- Who is billed by which plan, and the plans as they were when somebody subscribed: a past invoice never changes.

CREATE TABLE plan_versions (
    plan     TEXT NOT NULL,
    version  INTEGER NOT NULL,             -- 1, 2, …
    document TEXT NOT NULL,                -- JSON: the plan with its features and meters
    PRIMARY KEY (plan, version)
) WITHOUT ROWID;

CREATE TABLE subscriptions (
    id         INTEGER PRIMARY KEY,
    tenant_id  TEXT NOT NULL REFERENCES tenants (id),
    plan       TEXT NOT NULL,
    version    INTEGER NOT NULL,
    zone       TEXT NOT NULL,              -- the time zone that its months are of
    anchor_ms  INTEGER NOT NULL,           -- when a billing period begins; all others begin from there
    start_ms   INTEGER NOT NULL,
    end_ms     INTEGER,                    -- exclusive; null: it goes on
    FOREIGN KEY (plan, version) REFERENCES plan_versions (plan, version)
);
CREATE INDEX subscriptions_by_tenant ON subscriptions (tenant_id, start_ms);
-- One at a time.
CREATE UNIQUE INDEX subscriptions_open ON subscriptions (tenant_id) WHERE end_ms IS NULL;
