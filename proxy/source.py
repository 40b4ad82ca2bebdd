"""The file that settings are read from, and the tables of it that are none: they declare tenants."""

from __future__ import annotations

import difflib
import gc
import stat
import sys
import threading
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proxy.errors import ConfigurationError

CONFIG_VARIABLE = "TOLLGATE_CONFIG"
#: The tables that declare tenants (`proxy.declaration`).
DECLARING = ("plans", "tenants")
FILE_BYTES_MAX = 16 * 1024 * 1024

_TURN = threading.Lock()
_SWITCH_S = 0.000_5


#: Which file it is and in what state, as far as can be told from outside; None where there is none, or no plain one.
Stamp = tuple[int, ...] | None
#: Settings, unchecked, and what declares tenants; None instead of that for a file that has nothing at all.
Content = tuple[dict[str, Any], dict[str, Any] | None]


@dataclass(slots=True)
class Source:
    """The file, by its absolute path, and the variables that win over it: all that settings are read from."""

    path: Path
    variables: Mapping[str, str] = field(repr=False, compare=False)
    #: The file as it was when it was last read.
    stamp: Stamp = field(default=None, repr=False, compare=False)
    _kept: Content | None = field(default=None, repr=False, compare=False)

    def read(self) -> Content:
        """What the file has. Raises `ConfigurationError`."""
        kept, self._kept = self._kept, None
        return kept or self._read()

    def read_ahead(self) -> Content:
        """The same; and `read` gives it once more, without looking at the file, which may be a pipe."""
        self._kept = self._read()
        return self._kept

    def _read(self) -> Content:
        self.stamp = stamp_of(self.path)
        text = self._text()
        with gently():
            document = _parsed(text, self.path)
        if not document:
            return {}, None
        declaring = {name: document.pop(name) for name in DECLARING if name in document}
        return document, declaring

    def _text(self) -> str:
        try:
            with self.path.open("rb") as file:
                data = file.read(FILE_BYTES_MAX + 1)
            if len(data) > FILE_BYTES_MAX:
                raise ConfigurationError(f"{self.path}: has more than {FILE_BYTES_MAX // 1024 // 1024} MiB")
            return data.decode()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{CONFIG_VARIABLE}: cannot read {self.path}: {error}") from None


def stamp_of(path: Path) -> Stamp:
    try:
        found = path.stat()  # of the file that links lead to
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


@contextmanager
def gently() -> Iterator[None]:
    """Work in a thread on ten thousand tenants, which takes it a second, without making the event loop wait.

    Threads take turns ten times as often. There is no search for garbage, which holds all of them up for half a second
    with so many new objects about, finds none, and doubles the time that it takes. Nests nowhere, and is done by one
    thread at a time: both are settings of the whole process.
    """
    with _TURN:
        interval, collects = sys.getswitchinterval(), gc.isenabled()
        sys.setswitchinterval(_SWITCH_S)
        gc.disable()
        try:
            yield
        finally:
            sys.setswitchinterval(interval)
            if collects:
                gc.enable()


def nearest(name: str, names: list[str]) -> str:
    """The question whether one of the known names was meant; empty where none is near."""
    elsewhere = [known for known in names if known.endswith(f".{name}")]  # the right key outside its section
    close = elsewhere or difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f" Did you mean {close[0]}?" if close else ""


def _parsed(text: str, path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number of too many digits is no TOMLDecodeError
        raise ConfigurationError(f"{path}: {error}") from None
