"""A copy of the ledger while servers write to it: whole, checked, and never half a file where it is to stand."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from proxy.errors import StoreError
from proxy.store.database import RESTORE, Database

#: Some 4 MB: how often the progress is told.
_STEP_PAGES = 1_024


def back_up(
    database: Database, target: Path, *, overwrite: bool = False, progress: Callable[[int, int], None] | None = None
) -> int:
    """Copy all that was committed before now to `target`, and check the copy. Returns its bytes.

    Nobody waits for it: a reader's view of a write-ahead log stays as it is while others write. `progress` is told the
    pages that are left, and all. Raises `StoreError`, `OSError` or `sqlite3.Error`; then `target` is as it was.
    """
    _check_target(database, target, overwrite=overwrite)
    with TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        copy = Path(folder) / "copy.db"
        os.close(os.open(copy, os.O_CREAT | os.O_EXCL, 0o600))
        with closing(database.open()) as source:
            _copy(source, copy, progress)
        _sync(copy)
        _check_target(database, target, overwrite=overwrite)
        size = copy.stat().st_size
        copy.replace(target)
    _sync(target.parent)
    return size


def _copy(source: sqlite3.Connection, path: Path, progress: Callable[[int, int], None] | None) -> None:
    # Without a view of its own the copying would begin anew after every commit of a server, for ever.
    source.execute("BEGIN")
    source.execute("SELECT * FROM sqlite_schema").fetchone()
    with closing(sqlite3.connect(path, isolation_level=None)) as copy:
        copy.execute("PRAGMA journal_mode = OFF")  # what is half done is thrown away
        copy.execute("PRAGMA synchronous = OFF")  # and the whole is synchronised at the end
        source.backup(copy, pages=_STEP_PAGES, progress=_told(progress))
    with closing(sqlite3.connect(path, isolation_level=None)) as copy:
        copy.execute("PRAGMA journal_mode = DELETE")  # one file, for whoever reads it
        faults = [words for (words,) in copy.execute("PRAGMA integrity_check(1)")]
        if faults != ["ok"]:
            raise StoreError(f"the ledger is damaged, and was not backed up: {faults[0]}; {RESTORE}")


def _told(progress: Callable[[int, int], None] | None) -> Callable[[int, int, int], object] | None:
    return None if progress is None else lambda _, left, total: progress(left, total)


def _check_target(database: Database, target: Path, *, overwrite: bool) -> None:
    if target.is_dir() or not target.parent.is_dir():
        raise StoreError(f"{target}: name a file in a folder that exists")
    beside = (database.path, *(database.path.with_name(database.path.name + end) for end in ("-wal", "-shm")))
    if target.resolve() in [path.resolve() for path in beside]:
        raise StoreError(f"{target} is the ledger itself")
    if not overwrite and target.exists():
        raise StoreError(f"{target} exists already; --force replaces it")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
