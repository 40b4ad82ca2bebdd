"""Everything that people and their tools look at, beside `/v1`."""
