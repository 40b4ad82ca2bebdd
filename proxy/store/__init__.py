"""The durable state: tenants and keys, the ledger of settlements, and the outbox of their events."""
