"""The relay: carries committed events from the outbox to the metering engine. Never on the request path."""
