-- Dead letters that a person gave up, whose upstream resources are whose, and upstream keys of tenants' own.

ALTER TABLE events ADD COLUMN reason TEXT NOT NULL DEFAULT ''; -- why it was discarded

ALTER TABLE tenants ADD COLUMN upstream_key TEXT NOT NULL DEFAULT ''; -- where it is found: env:NAME or file:PATH

-- What a tenant has made upstream, with an account that all share: responses and conversations, by the upstream's ids.
CREATE TABLE owned (
    id      TEXT PRIMARY KEY,
    subject TEXT NOT NULL,
    time_ms INTEGER NOT NULL
) WITHOUT ROWID;
