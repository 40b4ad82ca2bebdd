"""Three plain endpoints on top of chat completions, metered like every other request."""
