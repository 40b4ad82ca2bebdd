"""The file is applied whole or refused whole. How that stands is told in the log, and by `/readyz` and `/metrics`."""

from __future__ import annotations

import asyncio
import logging
import re
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from typing import Any

from proxy.declaration.changes import Changes, changes
from proxy.declaration.document import Declaration
from proxy.errors import ConfigurationError, WrongDeclaration
from proxy.instants import iso_short
from proxy.limits import Calendar
from proxy.settings import Settings, known_keys, read
from proxy.source import CONFIG_VARIABLE, Source, gently
from proxy.store.commit import GroupCommit
from proxy.store.database import Database, migrate
from proxy.store.declared import applied
from proxy.store.reader import Reader

log = logging.getLogger(__name__)

#: How often it is compared anew where others change tenants meanwhile.
_TRIES = 10
#: What can come of reading the file.
RESULTS = ("applied", "unchanged", "refused", "failed")
_LINE = re.compile(r"\((?:at )?(line \d+, column \d+|end of document)\)$")


class Declared:
    """What one file declares, and whether it is in force."""

    def __init__(self, source: Source, time_zone: str, now_ms: Callable[[], int]) -> None:
        self.source = source
        self._calendar = Calendar.of(time_zone)
        self._now_ms = now_ms
        #: As they were in the file at the start; and which of them it has otherwise by now.
        self._settings: Settings | None = None
        self._outdated: list[str] = []
        #: What is in force, and what another server has put in its place, by their digests.
        self._digest: str | None = None
        self._strange = ""
        self._in_force_ms = 0
        self._said = ""
        #: Why the file is not in force as it stands, without naming anybody; empty while all is well.
        self.trouble = ""
        #: How often it was read, by what came of it (`RESULTS`).
        self.results: Counter[str] = Counter()

    def apply_first(self, database: Database) -> None:
        """Before anything else is done. Raises `ConfigurationError`, and `sqlite3.Error`."""
        try:
            self._settings, declaration = self._read()
            with database.transaction() as connection:
                found = self._compare(connection, declaration)
                found.write(connection)
        except WrongDeclaration as error:
            raise ConfigurationError(self._words(error)) from None
        self._done(declaration, found, is_first=True)

    def check(self, database: Database) -> tuple[Declaration, Changes]:
        """What is declared, and what would change in the ledger for it, or in an empty one where there is none.

        Raises `ConfigurationError`, and `sqlite3.Error` for a ledger that cannot be read.
        """
        try:
            _, declaration = self._read()
            with closing(_ledger_or_empty(database)) as connection:
                return declaration, self._compare(connection, declaration)
        except WrongDeclaration as error:
            raise ConfigurationError(self._words(error)) from None

    async def apply(self, commit: GroupCommit, reader: Reader, is_whole: Callable[[], bool]) -> bool:
        """Read the file and apply it; whether anything was written. Nothing is done where it is not `is_whole` then.

        Raises `ConfigurationError`, and `sqlite3.Error` where the ledger is in trouble.
        """
        if commit.trouble:
            raise sqlite3.OperationalError(commit.trouble)  # before a large file is read for nothing
        settings, declaration = await asyncio.to_thread(self._read)
        if not await asyncio.to_thread(is_whole):
            return False
        found = await self._write(declaration, commit, reader)
        self._compare_settings(settings)
        self._done(declaration, found)
        return bool(found.rows)

    def refuse(self, error: ConfigurationError) -> None:
        """The file is wrong."""
        self.results["refused"] += 1
        if isinstance(error, WrongDeclaration):
            place = f" at {error.place}"
        else:
            line = _LINE.search(str(error))
            place = f" at {line[1]}" if line else ""
        self.trouble = f"the file is refused{place}; the log says why"
        self._say(f"a change is refused whole, and what was declared before stays in force: {self._words(error)}")

    def fail(self, error: sqlite3.Error) -> None:
        """The ledger did not take it."""
        self.results["failed"] += 1
        self.trouble = "the ledger cannot take what the file declares; the log says why"
        self._say(f"a change of {self.source.path} cannot be applied, and is tried again: {error}")

    async def is_gone(self, reader: Reader) -> bool:
        """Whether it is not in force any more, though it was: a backup has taken the ledger's place.

        Where another server has applied another file after this one, that is left as it is, and told at the second
        look in a row: at the first one, this server may be about to read the same.
        """
        try:
            last = await reader.read(applied)
        except sqlite3.Error as error:
            log.debug("what is declared cannot be read: %s", error)  # the ledger's own trouble is told elsewhere
            return False
        if self._digest in (None, last.digest):
            return False
        if last.applied_ms < self._in_force_ms:
            log.warning("the ledger holds what was declared at another time, and %s is applied again", self.source.path)
            return True
        if last.digest == self._strange:
            log.warning(
                "another server has applied %s at %s, in the place of %s here; they must be the same",
                *(last.file, iso_short(last.applied_ms), self.source.path),
            )
            self._digest = last.digest
        self._strange = last.digest
        return False

    def _read(self) -> tuple[Settings, Declaration]:
        settings, tables = read(self.source)
        with gently():
            return settings, Declaration.read(tables or {}, self._calendar, is_blank=tables is None)

    def _compare(self, connection: sqlite3.Connection, declaration: Declaration) -> Changes:
        with gently():
            return changes(connection, declaration, str(self.source.path), self._now_ms())

    async def _write(self, declaration: Declaration, commit: GroupCommit, reader: Reader) -> Changes:
        for _ in range(_TRIES):
            found = await reader.read(lambda connection: self._compare(connection, declaration))
            if not found.rows or await commit.run(found.write):
                return found
        raise sqlite3.OperationalError("others change tenants all the time")

    def _done(self, declaration: Declaration, found: Changes, *, is_first: bool = False) -> None:
        self.results["applied" if found.rows else "unchanged"] += 1
        self.trouble = self._said = ""
        self._digest = declaration.digest if declaration.is_given else None
        self._in_force_ms = self._now_ms()
        if found.warning:
            log.warning("%s", found.warning)
        if found.words or not is_first:
            log.info("%s is in force: %s", self.source.path, found.words or "nothing that it declares has changed")

    def _say(self, words: str) -> None:
        if words != self._said:
            log.error("%s", words)
        self._said = words

    def _words(self, error: ConfigurationError) -> str:
        return f"{self.source.path}: {error}" if isinstance(error, WrongDeclaration) else str(error)

    def _compare_settings(self, settings: Settings) -> None:
        """Tell which settings the file has otherwise than this server, once for each change of that."""
        assert self._settings is not None
        outdated = [".".join(keys) for keys in known_keys() if _value(settings, keys) != _value(self._settings, keys)]
        if outdated and outdated != self._outdated:
            log.warning("settings that have changed need a restart: %s", ", ".join(outdated))
        self._outdated = outdated


def _ledger_or_empty(database: Database) -> sqlite3.Connection:
    if database.path.exists():
        return database.connect(read_only=True)
    empty = sqlite3.connect(":memory:", isolation_level=None)
    migrate(empty)
    return empty


def warn_of_unread(database: Database) -> None:
    """A server without a file leaves alone what one declared. Raises `sqlite3.Error`."""
    with closing(database.connect(read_only=True)) as connection:
        last = applied(connection)
    if last.file:
        log.warning("tenants are declared in %s, which this server does not read (%s)", last.file, CONFIG_VARIABLE)


def _value(settings: Settings, keys: tuple[str, ...]) -> Any:
    value: Any = settings
    for key in keys:
        value = getattr(value, key)
    return value
