"""What is asked of the metering engine: what it has of our events, what its meters make of them, what it grants."""
