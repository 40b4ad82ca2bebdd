"""Whose turn it is to write, where several workers write one ledger: who waits is queued by the kernel.

SQLite itself has a waiting writer look again after ever longer pauses, between which others come and go. Its own lock
holds all the same, for programs that take no turn.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from pathlib import Path
from types import TracebackType


class Turn:
    """The lock of a file beside the ledger, to be held for a transaction. For use by one thread at a time."""

    def __init__(self, ledger: Path) -> None:
        self._path = ledger.with_name(f"{ledger.name}-turn")
        self._descriptor = -1

    def __enter__(self) -> None:
        """Wait for it. Raises `sqlite3.OperationalError` where the file cannot be made."""
        try:
            if self._descriptor < 0:
                self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        except OSError as error:
            raise sqlite3.OperationalError(f"{self._path}: {error.strerror}") from None

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
