-- What requests cost, at the list prices of their time. What was recorded before is of unknown cost, and counts as none.

ALTER TABLE events ADD COLUMN cost_pico_usd INTEGER NOT NULL DEFAULT 0;        -- 1e-12 US dollars
ALTER TABLE events ADD COLUMN cost_state TEXT NOT NULL DEFAULT 'unknown';      -- proxy.model.CostState
ALTER TABLE events ADD COLUMN service_tier TEXT NOT NULL DEFAULT '';           -- flex, priority, ...: prices differ

ALTER TABLE rollups ADD COLUMN cost_pico_usd INTEGER NOT NULL DEFAULT 0;
ALTER TABLE rollups ADD COLUMN priced_requests INTEGER NOT NULL DEFAULT 0;
ALTER TABLE rollups ADD COLUMN free_requests INTEGER NOT NULL DEFAULT 0;
ALTER TABLE rollups ADD COLUMN unpriced_requests INTEGER NOT NULL DEFAULT 0;
ALTER TABLE rollups ADD COLUMN unpriced_tokens INTEGER NOT NULL DEFAULT 0;
