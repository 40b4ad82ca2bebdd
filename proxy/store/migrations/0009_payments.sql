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
