-- Tenants that a file declares, so that no command changes them.

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
