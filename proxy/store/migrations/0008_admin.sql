-- What the admin API has answered to requests with an Idempotency-Key, for a day: a repeat is answered so again. No secret
-- is in it: a key is shown once.
CREATE TABLE answered (
    key     TEXT PRIMARY KEY,
    request BLOB NOT NULL,                 -- SHA-256 of what was asked
    answer  TEXT NOT NULL,                 -- JSON
    time_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX answered_by_time ON answered (time_ms);
