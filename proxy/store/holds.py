"""A trace of each request in flight that outlives the process: what a `kill -9` interrupts is settled afterwards.

The trace stands in a file of slots that is mapped into memory. Taking a slot is a copy of some hundred bytes, without a
system call or a wait, and from then on the trace is the kernel's: it is there whatever becomes of this process. Against
a power cut it is written to disk once a second (`sync`).

Each process has a file of its own beside the ledger, and locks it; the kernel unlocks it when the process ends, however
that happens. So a file that can be locked is one that a dead process left (`orphans`).
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import secrets
import struct
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import orjson

from proxy.errors import ConfigurationError
from proxy.model import Outcome, Settlement, Usage, UsageSource
from proxy.store.written import settlement_of, write

log = logging.getLogger(__name__)

_SLOTS = 256  # at first; the file grows with what is in flight
_SLOT_BYTES = 1024
#: The first slot's place is the file's head: what it is, and when its process was last seen alive (unix ms).
_HEAD = struct.Struct("<8sq")
_MAGIC = b"TGHOLDS1"
#: Length and checksum of what follows, whether the request was sent, and how much of its answer has been delivered.
_SLOT = struct.Struct("<IIII")
_PROGRESS = struct.Struct("<II")
_PROGRESS_AT = 8
_EMPTY = bytes(4)
_SENT = 1
_CHARACTERS_MAX = 2**32 - 1
#: Names that clients choose are cut where they would not fit.
_NAME_CHARS_MAX = 32


class Holds:
    """The traces of this process. `open` before the first `take`; not for use by several threads, `sync` aside."""

    def __init__(self, ledger: Path) -> None:
        self._ledger = ledger
        self._path: Path | None = None
        self._descriptor = -1
        self._map: mmap.mmap
        self._free: list[int] = []
        self._seen_ms = 0

    def open(self, now_ms: int) -> None:
        """Make this process's file. Raises `ConfigurationError`."""
        self._seen_ms = now_ms
        self._free.clear()
        try:
            self._replace(_SLOTS)
        except OSError as error:
            raise ConfigurationError(f"database_url: {error.filename or self._ledger}: {error.strerror}") from None

    def close(self) -> None:
        """Let go of the file. It goes away, unless it still holds something, which is an orphan then."""
        if self._path is not None:
            if not self._taken():
                with suppress(OSError):
                    self._path.unlink()
            self._map.close()
            os.close(self._descriptor)
            self._path = None

    def take(self, known: Settlement) -> int:
        """Leave a trace: how the request would be settled by what is known of it. Returns its slot.

        `known.usage` is what it takes if the upstream gets it. Raises `OSError` where no more slots can be made.
        """
        if not self._free:
            self._replace(2 * len(self._map) // _SLOT_BYTES)
        written = write(known)
        if len(written) > _SLOT_BYTES - _SLOT.size:
            short = known.requested_model.encode("ascii", "replace")[:_NAME_CHARS_MAX].decode()
            written = write(replace(known, requested_model=short, model=short))
        slot = self._free.pop()
        begin = slot + _SLOT.size
        # The length last: a slot without one is empty, however the rest looks.
        self._map[begin : begin + len(written)] = written
        _SLOT.pack_into(self._map, slot, len(written), crc32(written), 0, 0)
        return slot

    def progress(self, slot: int, characters: int) -> None:
        """The request was sent to the upstream, and so much text of its answer has come."""
        _PROGRESS.pack_into(self._map, slot + _PROGRESS_AT, _SENT, min(characters, _CHARACTERS_MAX))

    def release(self, slot: int) -> None:
        """The request is settled."""
        self._map[slot : slot + 4] = _EMPTY
        self._free.append(slot)

    def seen(self, now_ms: int) -> None:
        """This process lives. Makes the file again where someone has deleted it. Raises `OSError`."""
        assert self._path is not None
        self._seen_ms = now_ms
        _HEAD.pack_into(self._map, 0, _MAGIC, now_ms)
        if not self._path.exists():
            log.warning("%s was deleted and is made again", self._path)
            self._replace(len(self._map) // _SLOT_BYTES)

    def sync(self) -> None:
        """Write the traces to disk. May be called in another thread. Raises `OSError`."""
        descriptor = os.dup(self._descriptor)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def orphans(self) -> Iterator[Orphan]:
        """The files that dead processes have left, each of which is to be closed."""
        for path in sorted(self._ledger.parent.glob(f"{self._ledger.name}-holds-*")):
            if path != self._path and (orphan := Orphan.at(path)):
                yield orphan

    def are_left_by(self, pid: int) -> bool:
        """Whether there are traces of a process that is dead."""
        return any(self._ledger.parent.glob(f"{self._ledger.name}-holds-{pid}-*"))

    def _taken(self) -> int:
        return len(self._map) // _SLOT_BYTES - 1 - len(self._free)

    def _replace(self, slots: int) -> None:
        """Go on in a new file of this size. Until the old one is gone both hold the same, which is settled once."""
        content = _HEAD.pack(_MAGIC, self._seen_ms).ljust(_SLOT_BYTES, b"\0") if self._path is None else self._map[:]
        path = self._ledger.with_name(f"{self._ledger.name}-holds-{os.getpid()}-{secrets.token_hex(4)}")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # whoever looks for orphans may have it for a moment
            # Written out, and not left sparse: on a full disk a store into a hole would kill this process.
            _fill(descriptor, content.ljust(slots * _SLOT_BYTES, b"\0"))
            mapped = mmap.mmap(descriptor, slots * _SLOT_BYTES)
        except BaseException:
            path.unlink()
            os.close(descriptor)
            raise
        if self._path is not None:
            self._map.close()
            os.close(self._descriptor)
            self._path.unlink(missing_ok=True)
        self._path, self._descriptor, self._map = path, descriptor, mapped
        self._free.extend(range((slots - 1) * _SLOT_BYTES, len(content) - 1, -_SLOT_BYTES))


class Orphan:
    """The file of a process that is no more."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    @classmethod
    def at(cls, path: Path) -> Orphan | None:
        """The file, locked; None where its process lives, or where another one is at it."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A file is made before it is locked and written, and may be deleted before we have the lock.
            if os.fstat(descriptor).st_nlink and os.pread(descriptor, len(_MAGIC), 0) == _MAGIC:
                return cls(path, descriptor)
        except BlockingIOError:
            pass
        os.close(descriptor)
        return None

    def settlements(self) -> list[Settlement]:
        """What was in flight, each as it is to be settled."""
        with closing(mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ)) as mapped:
            _, seen_ms = _HEAD.unpack_from(mapped.read(_HEAD.size).ljust(_HEAD.size, b"\0"))
            return [
                found
                for slot in range(_SLOT_BYTES, len(mapped) - _SLOT_BYTES + 1, _SLOT_BYTES)
                if (found := _read(mapped, slot, seen_ms)) is not None
            ]

    def close(self, *, settled: bool) -> None:
        """Let go of the file, which is deleted if what it held is settled."""
        if settled:
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def _read(mapped: mmap.mmap, slot: int, seen_ms: int) -> Settlement | None:
    length, checksum, sent, characters = _SLOT.unpack_from(mapped, slot)
    begin = slot + _SLOT.size
    written = mapped[begin : begin + length] if length <= _SLOT_BYTES - _SLOT.size else b""
    if not written or crc32(written) != checksum:
        return None  # empty; or torn, and then the request was not even sent
    known = settlement_of(orjson.loads(written))
    known = replace(known, outcome=Outcome.INTERRUPTED, duration_ms=max(0, seen_ms - known.time_ms))
    if not sent:
        return replace(known, usage=Usage(), usage_source=UsageSource.NONE, estimator="")
    if known.usage_source is UsageSource.NONE:
        return known
    return replace(known, usage=replace(known.usage, text_output=-(-characters // 4)))


def _fill(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]
