"""What usage costs, by a catalog of plans; and what is asked of the metering engine.

That is what it has of our events, what its meters make of them, and what it grants.
"""
