"""The suite's secrets, and the search for them in all that a test leaves: no test passes that has let one out.

Nothing needs to be declared secret. The proxy's own seams tell what it was given (`WATCHED`), and a key that it made is
known by its shape. `conftest` searches after each test: what was captured and logged, at whatever level; the words of
each error of the proxy's; what was scraped; the events that receivers took; and every file that is left, ledgers with
their logs and traces, logs of processes and copies among them. `MEANT` and what follows it say where secrets may stand.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import stat
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
import pytest
from pydantic import SecretStr

from proxy.billing import openmeter
from proxy.delivery.sinks import http as http_sink
from proxy.errors import TollgateError
from proxy.gateway import auth
from proxy.store import tenants
from proxy.upstream import connect
from proxy.upstream.keys import UpstreamKeys
from proxy.web.metrics import Metrics
from proxy.webhooks import sender as webhooks
from tests.delivery.receiver import Receiver

#: What is shorter is no secret, and may be a part of any word. The gateway's mask has the same bound.
BYTES_MIN = 8
#: A key that the proxy has made.
MADE = re.compile(rb"tg_[A-Za-z0-9_-]{43}(?![A-Za-z0-9_-])")
#: Of a larger file the beginning and the end are searched.
_FILE_BYTES_MAX = 64 * 1024 * 1024
_NOTES_MAX = 20_000
_SHOWN_BYTES = 60

#: Variables whose value is a secret, or has one in it: the proxy's own, and those that tests name tenants' keys by.
_SECRET_VARIABLE = re.compile(r"(?i).*(?:KEY|TOKEN|SECRET|PASSWORD)")
_URL_VARIABLE = re.compile(r"(?i).*(?:_URL|_PROXY)")

#: The one time that a key is shown: what a first start with the sandbox says of its demo.
_DEMO = re.compile(
    rb"A demo tenant was made\. Its key is shown only now; try it:\n\n  curl \S+ \\\n"
    rb"    -H 'Authorization: Bearer (" + MADE.pattern + rb")'"
)
#: Tests that put a secret where it else may not be, and where.
MEANT = {
    # Its engine repeats a token to a client that was given another one.
    "tests/billing/test_openmeter.py::test_no_secret_is_repeated": "an error's words",
}
#: What an operator writes secrets into.
_MEANT_NAMES = re.compile(r"\.env|.+\.toml")


@dataclass(slots=True, repr=False)
class Canaries:
    """What is secret just now, and what has been seen since the last `forget`."""

    secrets: set[bytes] = field(default_factory=set)
    #: Words by the place where they were seen.
    notes: dict[str, set[str]] = field(default_factory=dict)
    directories: list[Path] = field(default_factory=list)
    receivers: list[Receiver] = field(default_factory=list)
    #: What belongs to fixtures that serve several tests.
    lasting_secrets: set[bytes] = field(default_factory=set)
    lasting_directories: list[Path] = field(default_factory=list)
    #: Such a fixture is being set up.
    is_lasting: bool = False

    def add(self, secret: str | bytes) -> None:
        """This must not be seen from now on."""
        data = secret.encode() if isinstance(secret, str) else bytes(secret)
        if len(data) >= BYTES_MIN and not MADE.fullmatch(data):
            (self.lasting_secrets if self.is_lasting else self.secrets).add(data)

    def note(self, place: str, words: str) -> None:
        """These words have left the proxy."""
        seen = self.notes.setdefault(place, set())
        if len(seen) < _NOTES_MAX:
            seen.add(words)

    def leaks(self, test: str = "") -> list[str]:
        """Each place where a secret was found after a test, with what stands around it."""
        return [
            f"{place}: {shown!r}"
            for place, data in self._left()
            if MEANT.get(test) != place
            for shown in self.found_in(data)
        ]

    def found_in(self, data: bytes) -> Iterator[bytes]:
        """What stands around each secret in these bytes."""
        if b"tg_" in data:
            shown_once = {match[1] for match in _DEMO.finditer(data)}
            for match in MADE.finditer(_DEMO.sub(b"", data) if shown_once else data):
                yield match[0]
        for secret in self.secrets | self.lasting_secrets:
            at = data.find(secret)
            if at >= 0:
                yield data[max(0, at - _SHOWN_BYTES) : at + len(secret) + _SHOWN_BYTES]

    def _left(self) -> Iterator[tuple[str, bytes]]:
        for place, seen in tuple(self.notes.items()):  # a server's thread may still be adding to them
            yield place, "\n".join(tuple(seen)).encode("utf-8", "backslashreplace")
        for receiver in self.receivers:
            yield "events at a receiver", orjson.dumps(receiver.taken)
        known = self.secrets | self.lasting_secrets
        for directory in (*self.directories, *self.lasting_directories):
            for path in files_in(directory):
                data = b"" if _MEANT_NAMES.fullmatch(path.name) else read(path)
                if data.strip() not in known:  # a file that holds a secret and nothing else is where it is kept
                    yield str(path), data

    def forget(self, *, lasting: bool) -> None:
        """The test is over; with `lasting`, so are the fixtures that served several."""
        for seen in (self.secrets, self.notes, self.directories, self.receivers):
            seen.clear()
        if lasting:
            self.lasting_secrets.clear()
            self.lasting_directories.clear()


def files_in(directory: Path) -> Iterator[Path]:
    """Every plain file, but none that a link leads to."""
    for folder, _, names in os.walk(directory):
        for name in names:
            path = Path(folder, name)
            with suppress(OSError):
                if stat.S_ISREG(path.lstat().st_mode):
                    yield path


def read(path: Path) -> bytes:
    """What stands in a file; nothing where it is gone or cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_BYTES_MAX)
            size = os.fstat(file.fileno()).st_size
            if size > len(data):
                file.seek(max(len(data), size - _FILE_BYTES_MAX))
                data += file.read(_FILE_BYTES_MAX)
            return data
    except OSError:
        return b""


def words_of(error: BaseException | None) -> Iterator[str]:
    """What an error and those that led to it say; not what a test asserts, which quotes what it knows."""
    while error is not None:
        if not isinstance(error, AssertionError):
            yield f"{type(error).__name__}: {error}"
        if isinstance(error, BaseExceptionGroup):
            for one in error.exceptions:
                yield from words_of(one)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


class Listener(logging.Handler):
    """Notes all that is logged, tracebacks included."""

    def __init__(self, canaries: Canaries) -> None:
        super().__init__()
        self._canaries = canaries

    def emit(self, record: logging.LogRecord) -> None:
        self._canaries.note("the log", self.format(record))


# Where secrets come in, and where words go out

_Seen = Callable[[Canaries, Any, tuple[Any, ...], dict[str, Any]], None]


def _given(canaries: Canaries, _: object, arguments: tuple[Any, ...], __: object) -> None:
    """The last argument is a secret: of `SecretStr(value)`, `hash_of(key)`."""
    canaries.add(arguments[-1])


def _found(canaries: Canaries, secret: Any, _: object, __: object) -> None:
    canaries.add(secret)


def _credential_made(canaries: Canaries, made: Any, _: object, __: object) -> None:
    _, secrets = made
    _add_all(canaries, secrets)


def _tunnel_made(canaries: Canaries, tunnel: Any, _: object, __: object) -> None:
    if tunnel is not None:
        _add_all(canaries, tunnel.authorization.split()[1:])


def _process_started(canaries: Canaries, _: object, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
    command = named.get("args") or arguments[1]
    if isinstance(command, list) and "--import" in command[:-1]:
        canaries.add(os.fspath(command[command.index("--import") + 1]))
    for name, value in (named.get("env") or {}).items():
        if _SECRET_VARIABLE.fullmatch(name):
            canaries.add(value.strip())
        elif _URL_VARIABLE.fullmatch(name) and "@" in value:
            with suppress(ValueError):
                canaries.add(urlsplit(value).password or "")


def _add_all(canaries: Canaries, secrets: Iterable[str]) -> None:
    for secret in secrets:
        canaries.add(secret)


def _receiver_made(canaries: Canaries, _: object, arguments: tuple[Any, ...], __: object) -> None:
    canaries.receivers.append(arguments[0])


def _directory_made(canaries: Canaries, made: Any, _: object, __: object) -> None:
    (canaries.lasting_directories if canaries.is_lasting else canaries.directories).append(made)


def _error_made(canaries: Canaries, _: object, arguments: tuple[Any, ...], __: object) -> None:
    for words in arguments[1:]:
        canaries.note("an error's words", str(words))


#: Functions, each with what it tells when it has returned.
WATCHED: list[tuple[Any, str, _Seen]] = [
    (SecretStr, "__init__", _given),
    (tenants, "hash_of", _given),
    (auth, "hash_of", _given),
    (UpstreamKeys, "secret", _found),
    (http_sink, "credential", _credential_made),
    (openmeter, "credential", _credential_made),
    (webhooks, "credential", _credential_made),
    (connect, "_tunnel_for", _tunnel_made),
    (subprocess.Popen, "__init__", _process_started),
    (pytest.TempPathFactory, "mktemp", _directory_made),
    (Receiver, "__init__", _receiver_made),
    (TollgateError, "__init__", _error_made),
]


def watch(canaries: Canaries, patch: pytest.MonkeyPatch) -> None:
    """Tell `canaries` of every call to what is watched, until `patch` is undone."""
    for owner, name, seen in WATCHED:
        patch.setattr(owner, name, _told(getattr(owner, name), functools.partial(seen, canaries)))
    patch.setattr(Metrics, "metrics", _scraped(canaries, Metrics.metrics))


def _told(original: Callable[..., Any], seen: Callable[..., None]) -> Callable[..., Any]:
    @functools.wraps(original)
    def told(*arguments: Any, **named: Any) -> Any:
        result = original(*arguments, **named)
        seen(result, arguments, named)
        return result

    return told


def _scraped(canaries: Canaries, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def scraped(*arguments: Any) -> Any:
        answer = await original(*arguments)
        canaries.note("what was scraped", bytes(answer.body).decode())
        return answer

    return scraped
