"""How many files this process may have open: each connection is one."""

from __future__ import annotations

import logging
import resource
import sys
from contextlib import suppress

log = logging.getLogger(__name__)

#: Files that are no connections: the ledger's and what else is read and written, the listening sockets, the sink's.
_KEPT = 128
#: Fewer clients at a time than this are worth a word.
_FEW = 1024


def raise_limit() -> None:
    """From what is usual (often 1,024) to what is allowed, and say so where that is little."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # some systems allow less than they say
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    room = connections_room()
    if room < _FEW:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        log.warning("only %d files may be open (ulimit -n): at most %d clients are served at a time", soft, room)


def connections_room() -> int:
    """How many connections there can be to clients, and as many to upstreams."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else max(1, (soft - _KEPT) // 2)
