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
