"""Who delivers, where several servers have one ledger: whoever holds the lock of a file beside it.

The kernel lets go of the lock when its process ends, however that happens, so that no time limit has to be guessed. A
process that is only stopped (SIGSTOP, a frozen container) keeps it.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from pathlib import Path
from typing import Protocol


class Lease(Protocol):
    """The right to deliver a ledger's events, which one relay has at a time."""

    def acquire(self) -> bool:
        """Take it, or make sure of it; False while another has it. Never waits. Raises `sqlite3.Error`."""
        ...

    def release(self) -> None:
        """Let go of it. More than once is fine."""
        ...


class FileLease:
    """A lock on a file beside the ledger. The file stays: to delete it would let two have it at once."""

    def __init__(self, ledger: Path, what: str = "relay") -> None:
        """`what` it is the right to; each has a file of its own."""
        self._path = ledger.with_name(f"{ledger.name}-{what}")
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        try:
            if self._descriptor is not None and self._is_at_the_path(self._descriptor):
                return True
            self.release()  # someone deleted the file, or put another in its place: its lock is nobody's concern now
            return self._take()
        except OSError as error:
            raise sqlite3.OperationalError(f"{self._path}: {error.strerror}") from None

    def release(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _take(self) -> bool:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self._is_at_the_path(descriptor):  # it may be deleted between the two lines above
                self._descriptor = descriptor
        except BlockingIOError:
            pass
        finally:
            if self._descriptor is None:
                os.close(descriptor)
        return self._descriptor is not None

    def _is_at_the_path(self, descriptor: int) -> bool:
        try:
            found = os.stat(self._path)  # noqa: PTH116 (before every batch: half the time of Path.stat)
        except FileNotFoundError:
            return False
        return os.path.samestat(found, os.fstat(descriptor))
