"""Protocol knowledge without I/O: bytes in, values out. Imports no client, database or web framework."""
