"""Money: US dollars as integers of pico-dollars (1e-12), and as they are written. Never a float."""

from __future__ import annotations

import re

#: A dollar. A price of $0.0375 for a million tokens is 37,500 of these for one.
PICO = 10**12
PLACES = 12
#: SQLite's largest integer, which is some nine million dollars. Sums of one row stop here.
PICO_MAX = 2**63 - 1

_WRITTEN = re.compile(r"([0-9][0-9_]{0,30})(?:\.([0-9]{1,60}))?")


def pico_of(text: str) -> int:
    """`100.50` as pico-dollars. Raises `ValueError`, worded for the user."""
    found = _WRITTEN.fullmatch(text)
    if found is None:
        raise ValueError("write dollars as 100 or 100.50")
    whole, places = found[1].replace("_", ""), found[2] or ""
    if len(places.rstrip("0")) > PLACES:
        raise ValueError(f"dollars have at most {PLACES} places after the point")
    return int(whole) * PICO + int(places[:PLACES].ljust(PLACES, "0"))


def dollars(pico: int) -> str:
    """Exactly, with no exponent and no zeros at the end: `0.0001234`, `5`."""
    whole, places = divmod(abs(pico), PICO)
    written = f"{whole}.{places:0{PLACES}}".rstrip("0").rstrip(".")
    return f"-{written}" if pico < 0 else written
