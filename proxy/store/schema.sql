-- The schema as it stands: the sum of the migrations, which a test proves. Times are unix milliseconds.

CREATE TABLE tenants (
    id         TEXT PRIMARY KEY,
    name       TEXT NOT NULL,
    status     TEXT NOT NULL CHECK (status IN ('active', 'disabled')),
    created_ms INTEGER NOT NULL,
    upstream_key TEXT NOT NULL DEFAULT '', -- where its own upstream key is found: env:NAME or file:PATH
    plan       TEXT NOT NULL DEFAULT '',   -- whose limits hold for it as well
    anchor_ms  INTEGER                     -- when its first billing period began; null: when it was made
);

-- A key is stored as its SHA-256. Keys are random, so that nothing slower is needed.
CREATE TABLE keys (
    id         TEXT PRIMARY KEY,
    tenant_id  TEXT NOT NULL REFERENCES tenants (id),
    name       TEXT NOT NULL,
    hash       BLOB NOT NULL UNIQUE,
    hint       TEXT NOT NULL,              -- the last four characters, of keys made here
    models     TEXT NOT NULL,              -- JSON array; [] allows every model
    trusted    INTEGER NOT NULL,           -- may name the subject it acts for
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER,
    revoked_ms INTEGER
);
CREATE INDEX keys_by_tenant ON keys (tenant_id);

-- One row, which every change of tenants or keys counts up: how a server knows that what it remembers is stale.
CREATE TABLE revision (number INTEGER NOT NULL);
INSERT INTO revision VALUES (0);

CREATE TRIGGER tenants_inserted AFTER INSERT ON tenants BEGIN UPDATE revision SET number = number + 1; END;
CREATE TRIGGER tenants_updated AFTER UPDATE ON tenants BEGIN UPDATE revision SET number = number + 1; END;
CREATE TRIGGER tenants_deleted AFTER DELETE ON tenants BEGIN UPDATE revision SET number = number + 1; END;
CREATE TRIGGER keys_inserted AFTER INSERT ON keys BEGIN UPDATE revision SET number = number + 1; END;
CREATE TRIGGER keys_updated AFTER UPDATE ON keys BEGIN UPDATE revision SET number = number + 1; END;
CREATE TRIGGER keys_deleted AFTER DELETE ON keys BEGIN UPDATE revision SET number = number + 1; END;

-- What tenants, their keys and whoever is on a plan may use.
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

CREATE TRIGGER limits_inserted AFTER INSERT ON limits BEGIN UPDATE revision SET number = number + 1; END;
CREATE TRIGGER limits_updated AFTER UPDATE ON limits BEGIN UPDATE revision SET number = number + 1; END;
CREATE TRIGGER limits_deleted AFTER DELETE ON limits BEGIN UPDATE revision SET number = number + 1; END;
CREATE TRIGGER top_ups_inserted AFTER INSERT ON top_ups BEGIN UPDATE revision SET number = number + 1; END;

-- What the file declares that was applied last, and what one declared once: that is withdrawn.
CREATE TABLE declared (
    owner_kind TEXT NOT NULL CHECK (owner_kind IN ('plan', 'tenant', 'key')),
    owner      TEXT NOT NULL,
    state      TEXT NOT NULL CHECK (state IN ('declared', 'withdrawn')),
    PRIMARY KEY (owner_kind, owner)
) WITHOUT ROWID;

-- One row: which file that was, the SHA-256 of what it declares, and when it was applied; all empty before the first.
CREATE TABLE declaration (
    file       TEXT NOT NULL,
    digest     TEXT NOT NULL,
    applied_ms INTEGER NOT NULL
);
INSERT INTO declaration VALUES ('', '', 0);

CREATE TRIGGER declared_inserted AFTER INSERT ON declared BEGIN UPDATE revision SET number = number + 1; END;
CREATE TRIGGER declared_updated AFTER UPDATE ON declared BEGIN UPDATE revision SET number = number + 1; END;
CREATE TRIGGER declared_deleted AFTER DELETE ON declared BEGIN UPDATE revision SET number = number + 1; END;

-- Settlements, and the outbox: a row is one request, how it ended, and where its event stands.
CREATE TABLE events (
    seq             INTEGER PRIMARY KEY,   -- the order of commits, in which the relay sends
    id              TEXT NOT NULL UNIQUE,  -- the request's id, which is the event's id
    subject         TEXT NOT NULL,
    key_id          TEXT NOT NULL,
    time_ms         INTEGER NOT NULL,
    endpoint        TEXT NOT NULL,
    requested_model TEXT NOT NULL,
    model           TEXT NOT NULL,
    provider        TEXT NOT NULL,
    streamed        INTEGER NOT NULL,
    status          INTEGER NOT NULL,
    outcome         TEXT NOT NULL,
    uncached_input  INTEGER NOT NULL,
    cached_input    INTEGER NOT NULL,
    cache_write     INTEGER NOT NULL,
    audio_input     INTEGER NOT NULL,
    text_output     INTEGER NOT NULL,
    reasoning       INTEGER NOT NULL,
    audio_output    INTEGER NOT NULL,
    usage_source    TEXT NOT NULL,
    duration_ms     INTEGER NOT NULL,
    ttft_ms         INTEGER NOT NULL,
    images          INTEGER NOT NULL,
    audio_ms        INTEGER NOT NULL,
    characters      INTEGER NOT NULL,
    upstream        TEXT NOT NULL,
    usage_path      TEXT NOT NULL,
    estimator       TEXT NOT NULL,
    on_disconnect   TEXT NOT NULL,
    response_id     TEXT NOT NULL,
    state           TEXT NOT NULL,         -- proxy.model.EventState
    attempts        INTEGER NOT NULL DEFAULT 0,
    error           TEXT NOT NULL DEFAULT '',
    delivered_ms    INTEGER,
    reason          TEXT NOT NULL DEFAULT '', -- why it was discarded
    over_limit      TEXT NOT NULL DEFAULT '', -- the soft limit that it passed
    cost_pico_usd   INTEGER NOT NULL DEFAULT 0, -- 1e-12 US dollars
    cost_state      TEXT NOT NULL DEFAULT 'unknown', -- proxy.model.CostState
    service_tier    TEXT NOT NULL DEFAULT '' -- flex, priority, ...: prices differ
);
-- By state and then, as every index, by seq. The state is constant in them; without it counting would read every row.
CREATE INDEX events_pending ON events (state) WHERE state = 'pending';
CREATE INDEX events_dead ON events (state) WHERE state = 'dead';
CREATE INDEX events_discarded ON events (state) WHERE state = 'discarded';
-- In the order of the requests' arrival, as a reconciliation walks them.
CREATE INDEX events_by_time ON events (time_ms);

-- Totals per subject, hour (unix hours), model, endpoint, key and source of the numbers.
CREATE TABLE rollups (
    subject        TEXT NOT NULL,
    hour           INTEGER NOT NULL,
    model          TEXT NOT NULL,
    endpoint       TEXT NOT NULL,
    key_id         TEXT NOT NULL,
    usage_source   TEXT NOT NULL,
    requests       INTEGER NOT NULL,
    uncached_input INTEGER NOT NULL,
    cached_input   INTEGER NOT NULL,
    cache_write    INTEGER NOT NULL,
    audio_input    INTEGER NOT NULL,
    text_output    INTEGER NOT NULL,
    reasoning      INTEGER NOT NULL,
    audio_output   INTEGER NOT NULL,
    images         INTEGER NOT NULL,
    audio_ms       INTEGER NOT NULL,
    characters     INTEGER NOT NULL,
    cost_pico_usd  INTEGER NOT NULL DEFAULT 0,
    priced_requests INTEGER NOT NULL DEFAULT 0,
    free_requests  INTEGER NOT NULL DEFAULT 0,
    unpriced_requests INTEGER NOT NULL DEFAULT 0,
    unpriced_tokens INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (subject, hour, model, endpoint, key_id, usage_source)
) WITHOUT ROWID;
CREATE INDEX rollups_by_hour ON rollups (hour);
-- What a key has used, whoever it acted for.
CREATE INDEX rollups_by_key ON rollups (key_id, hour);

-- Empty. A ledger that failed writes here, and takes it back, to see whether it can be written again.
CREATE TABLE probe (filler BLOB NOT NULL);

-- Background responses, whose usage becomes known only later: asked for until it is, then settled and gone from here.
CREATE TABLE followups (
    id          TEXT PRIMARY KEY,          -- the request's
    response_id TEXT NOT NULL,
    settlement  TEXT NOT NULL,             -- JSON: what is known so far
    tries       INTEGER NOT NULL,
    next_ms     INTEGER NOT NULL,
    until_ms    INTEGER NOT NULL,          -- when to give up
    upstream_key TEXT NOT NULL DEFAULT ''  -- where the key is found that the response was made with
);
CREATE INDEX followups_due ON followups (next_ms);

-- Responses to requests with an Idempotency-Key: the upstream may give the same one again, which is billed once.
CREATE TABLE idempotent (
    subject     TEXT NOT NULL,
    response_id TEXT NOT NULL,
    time_ms     INTEGER NOT NULL,
    PRIMARY KEY (subject, response_id)
) WITHOUT ROWID;
CREATE INDEX idempotent_by_time ON idempotent (time_ms);

-- What a tenant has made upstream, with an account that all share: responses and conversations, by the upstream's ids.
CREATE TABLE owned (
    id      TEXT PRIMARY KEY,
    subject TEXT NOT NULL,
    time_ms INTEGER NOT NULL
) WITHOUT ROWID;

-- What webhooks tell, and their outbox: with the states and the moves of events.
CREATE TABLE notifications (
    seq          INTEGER PRIMARY KEY,      -- the order in which they were noted, and are sent
    id           TEXT NOT NULL UNIQUE,     -- the webhook-id, by which receivers drop repeats
    about        TEXT NOT NULL UNIQUE,     -- what it tells of: the same thing is told once
    type         TEXT NOT NULL,            -- proxy.model.Topic
    subject      TEXT NOT NULL,            -- the tenant; '' where it is about none
    time_ms      INTEGER NOT NULL,         -- when it was noted
    body         TEXT NOT NULL,            -- JSON, as it is sent
    state        TEXT NOT NULL,            -- proxy.model.EventState
    attempts     INTEGER NOT NULL DEFAULT 0,
    error        TEXT NOT NULL DEFAULT '',
    delivered_ms INTEGER,
    reason       TEXT NOT NULL DEFAULT ''  -- why it was discarded
);
CREATE INDEX notifications_pending ON notifications (state) WHERE state = 'pending';
CREATE INDEX notifications_dead ON notifications (state) WHERE state = 'dead';

-- One row while webhooks are on: up to which settlement (events.seq) all is noted that was to be told. Else none.
CREATE TABLE noted (seq INTEGER NOT NULL);

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

-- What the admin API has answered to requests with an Idempotency-Key, for a day: a repeat is answered so again. No secret
-- is in it: a key is shown once.
CREATE TABLE answered (
    key     TEXT PRIMARY KEY,
    request BLOB NOT NULL,                 -- SHA-256 of what was asked
    answer  TEXT NOT NULL,                 -- JSON
    time_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX answered_by_time ON answered (time_ms);

-- How the payment of an invoice went last, by the clock of whoever told it: what is told late changes nothing.
CREATE TABLE payments (
    invoice   TEXT NOT NULL,               -- OpenMeter's id of it, or Stripe's where OpenMeter did not make it
    tenant_id TEXT NOT NULL REFERENCES tenants (id),
    state     TEXT NOT NULL CHECK (state IN ('failed', 'settled')),
    time_ms   INTEGER NOT NULL,
    PRIMARY KEY (invoice, tenant_id)
) WITHOUT ROWID;

-- Whose requests are refused until an invoice is paid, and whose were. A tenant that was disabled is another matter.
CREATE TABLE suspensions (
    id        INTEGER PRIMARY KEY,
    tenant_id TEXT NOT NULL REFERENCES tenants (id),
    invoice   TEXT NOT NULL,
    cause     TEXT NOT NULL,               -- the event that told of the failed payment: openmeter 01J…, stripe evt_…
    start_ms  INTEGER NOT NULL,
    end_ms    INTEGER,                     -- null: it goes on
    ended_by  TEXT NOT NULL DEFAULT ''     -- the event that told that it is paid, or operator
);
CREATE INDEX suspensions_by_tenant ON suspensions (tenant_id, start_ms);
CREATE UNIQUE INDEX suspensions_open ON suspensions (tenant_id, invoice) WHERE end_ms IS NULL;

CREATE TRIGGER suspensions_inserted AFTER INSERT ON suspensions BEGIN UPDATE revision SET number = number + 1; END;
CREATE TRIGGER suspensions_updated AFTER UPDATE ON suspensions BEGIN UPDATE revision SET number = number + 1; END;

-- Which tenants a customer of OpenMeter's (its id) or Stripe's (cus_…) pays for.
CREATE TABLE payers (
    id        TEXT NOT NULL,
    tenant_id TEXT NOT NULL REFERENCES tenants (id),
    PRIMARY KEY (id, tenant_id)
) WITHOUT ROWID;
