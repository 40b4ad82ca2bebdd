"""Events appended to a file, one JSON object a line: for machines without a metering engine, and for collectors."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from proxy.errors import SinkRefused, SinkUnavailable


class FileSink:
    """Appends batches. The file is opened for each one, so that it can be moved away at any time (log rotation)."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        # A delivery that was cancelled goes on in its thread; the next one waits for it.
        self._lock = threading.Lock()

    async def deliver(self, events: Sequence[dict[str, Any]]) -> None:
        """Returns when the events are on disk. Raises `SinkUnavailable`, or `SinkRefused` for what JSON cannot hold."""
        try:
            lines = b"".join(orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE) for event in events)
        except orjson.JSONEncodeError as error:
            raise SinkRefused(f"cannot be written as JSON: {error}") from None
        try:
            await asyncio.to_thread(self._append, lines)
        except OSError as error:
            words = f"{self._path}: {error.strerror or type(error).__name__}"
            # A path may hold bytes that are no UTF-8, and the store takes text only.
            raise SinkUnavailable(words.encode("utf-8", "replace").decode()) from None

    async def close(self) -> None:
        """Nothing is kept open."""

    def _append(self, lines: bytes) -> None:
        with self._lock:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            is_new = not self._path.exists()
            with self._path.open("a+b", buffering=0) as file:
                size = file.seek(0, os.SEEK_END)
                if size and _last_byte(file.fileno(), size) != b"\n":
                    lines = b"\n" + lines  # an earlier crash tore the last line: it stays one bad line
                _write(file.fileno(), lines, size)
                os.fsync(file.fileno())
            if is_new:
                _sync_folder(self._path.parent)


def _last_byte(descriptor: int, size: int) -> bytes:
    os.lseek(descriptor, size - 1, os.SEEK_SET)
    return os.read(descriptor, 1)


def _write(descriptor: int, lines: bytes, size: int) -> None:
    """Append everything, or nothing: on a full disk each try would otherwise leave a part of the batch behind."""
    written = 0
    try:
        while written < len(lines):
            written += os.write(descriptor, lines[written:])
    except OSError:
        if os.fstat(descriptor).st_size == size + written:  # nobody else has appended since
            os.ftruncate(descriptor, size)
        raise


def _sync_folder(folder: Path) -> None:
    """A new file's name is on disk only when its folder is. Windows cannot open folders, and needs no such step."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
