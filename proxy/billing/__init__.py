"""What is asked of the metering engine: what it has of our events, and what its meters make of them."""
