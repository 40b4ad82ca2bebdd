"""The request path, in the order of its stages: handle calls auth, admit, forward, meter and settle."""
