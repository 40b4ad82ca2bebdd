-- Dead letters that a person gave up, whose upstream resources are whose, and upstream keys of tenants' own.

ALTER TABLE events ADD COLUMN reason TEXT NOT NULL DEFAULT ''; -- why it was discarded
CREATE INDEX events_discarded ON events (state) WHERE state = 'discarded';

ALTER TABLE tenants ADD COLUMN upstream_key TEXT NOT NULL DEFAULT ''; -- where it is found: env:NAME or file:PATH

ALTER TABLE followups ADD COLUMN upstream_key TEXT NOT NULL DEFAULT ''; -- the one that the response was made with

-- What a tenant has made upstream, with an account that all share: responses and conversations, by the upstream's ids.
CREATE TABLE owned (
    id      TEXT PRIMARY KEY,
    subject TEXT NOT NULL,
    time_ms INTEGER NOT NULL
) WITHOUT ROWID;

-- In the order of the requests' arrival, as a reconciliation walks them. It costs a quarter of a microsecond an event.
CREATE INDEX events_by_time ON events (time_ms);
