"""The JSONPaths that meters use: names and indices, one after the other. `$.usage.total_tokens`, `$['model']`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

_STEP = re.compile(r"\.([A-Za-z_][A-Za-z0-9_]*)|\['([^'\\]+)'\]|\[\"([^\"\\]+)\"\]|\[([0-9]{1,4})\]", re.ASCII)


@lru_cache(maxsize=1024)
def steps(path: str) -> tuple[str | int, ...]:
    """Raises `ValueError`, worded for the user."""
    found: list[str | int] = []
    at = 1
    while path.startswith("$") and at < len(path):
        step = _STEP.match(path, at)
        if step is None:
            break
        bare, single, double, index = step.groups()
        found.append(int(index) if index else bare or single or double)
        at = step.end()
    if not found or at < len(path):
        raise ValueError(f"{path!r} is no JSONPath of names and indices that begins with $")
    return tuple(found)


def lookup(path: str, data: object) -> object:
    """What stands there; None where nothing does. Raises `ValueError` for what is no such path."""
    for step in steps(path):
        if isinstance(step, str) and isinstance(data, Mapping):
            data = data.get(step)
        elif isinstance(step, int) and isinstance(data, Sequence) and not isinstance(data, str) and step < len(data):
            data = data[step]
        else:
            return None
    return data
