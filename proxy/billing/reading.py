"""A document read key by key. What is wrong is noted, all of it; something that fits stands for it meanwhile."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TypeVar

from proxy.billing.durations import Duration
from proxy.billing.money import ZERO, parse
from proxy.billing.positions import Path
from proxy.instants import parse_instant

#: What the engine takes for a key, of anything.
KEY = re.compile(r"[a-z0-9]+(?:_[a-z0-9]+)*", re.ASCII)
_KEY_CHARS_MAX = 64
_NAME_CHARS_MAX = 256
_TEXT_CHARS_MAX = 1024
#: Told apart by identity: nothing that is read is this very text.
_STAND_IN = "stand_in"

T = TypeVar("T", bound=str)
V = TypeVar("V")


class Unquoted(str):
    """A number with a point or an exponent as it stands in the file: as a float it would be another one."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a key, and how to mend it."""

    path: Path
    rule: str
    fix: str

    def told(self) -> str:
        words = dotted(self.path)
        return f"{words}: {self.rule}, fix: {self.fix}" if words else f"{self.rule}, fix: {self.fix}"


def dotted(path: Path) -> str:
    """`plans.starter.rate_cards[1].feature`"""
    words = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return words.removeprefix(".")


def nearest(name: str, names: Collection[str]) -> str:
    """Those that might have been meant; else all that there are."""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(names) or 'none'}"


class Table:
    """A table of the document. Each of its keys is asked for once; `end` notes those that nobody knows."""

    def __init__(self, path: Path, values: object, faults: list[Fault]) -> None:
        self.path = path
        self._faults = faults
        self._known: dict[str, None] = {}
        self._values: Mapping[str, object] = values if isinstance(values, dict) else {}
        if not isinstance(values, dict):
            self.fault("it must be a table", "write { … }, or a header in brackets")

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def fault(self, rule: str, fix: str, *keys: str | int) -> None:
        """Something is wrong with a key in it, or with the table itself."""
        self._faults.append(Fault((*self.path, *keys), rule, fix))

    def end(self) -> None:
        """Everything that may stand in it was asked for."""
        for key in self._values:
            if key not in self._known:
                self.fault("there is no such key", nearest(key, self._known), key)

    def text(self, key: str, default: str | None = None, *, chars_max: int = _TEXT_CHARS_MAX) -> str:
        """Some text; without a default it must be there."""
        value = self._get(key, default is None)
        if value is None:
            return _STAND_IN if default is None else default
        if not isinstance(value, str) or isinstance(value, Unquoted):
            self.fault("it must be text", "put it in quotes", key)
        elif not value or len(value) > chars_max or not value.isprintable():
            self.fault("it is empty, too long or not printable", f"use 1 to {chars_max} printable characters", key)
        else:
            return value
        return _STAND_IN

    def name(self, default: str) -> str:
        """What people see."""
        return self.text("name", default, chars_max=_NAME_CHARS_MAX)

    def key(self, name: str, default: str | None = None) -> str:
        """The key of something."""
        value = self.text(name, default)
        if value and name in self:
            self.check_key(value, name)
        return value

    def check_key(self, value: str, *keys: str | int) -> None:
        if not KEY.fullmatch(value) or len(value) > _KEY_CHARS_MAX:
            fix = f"use 1 to {_KEY_CHARS_MAX} lower-case letters and digits, in words joined by single underscores"
            self.fault(f"{value!r} is no key that the engine takes", fix, *keys)

    def choice(self, key: str, among: Collection[T], default: T | None = None) -> T:
        """One of some words."""
        value = self.text(key, default)
        for one in among:
            if one == value:
                return one
        if value is not _STAND_IN:
            self.fault(f"it cannot be {value!r}", nearest(value, among), key)
        return default or next(iter(among))

    def reference(self, key: str, among: Mapping[str, V]) -> V | None:
        """What is named, if anything is: a meter, a feature. The key says which."""
        name = self.text(key, "")
        if name and name not in among and name is not _STAND_IN:
            self.fault(f"there is no {key} {name}", nearest(name, among), key)
        return among.get(name)

    def flag(self, key: str, *, default: bool) -> bool:
        value = self._get(key)
        if value is None or isinstance(value, bool):
            return default if value is None else value
        self.fault("it must be true or false", "write true or false, without quotes", key)
        return default

    def amount(self, key: str) -> Decimal:
        """A number that must be there: never negative, without exponent."""
        return self._number(key, self._get(key, is_required=True)) or ZERO

    def amount_or_none(self, key: str) -> Decimal | None:
        value = self._get(key)
        return None if value is None else self._number(key, value)

    def duration(self, key: str) -> Duration | None:
        words = self.text(key, "")
        if key not in self or words is _STAND_IN:
            return None
        try:
            return Duration.parse(words)
        except ValueError as error:
            self.fault(str(error), 'write it as "P1M" (a month), "P14D" or "PT1H"', key)
            return None

    def instant(self, key: str) -> int | None:
        """A date or an instant, in unix milliseconds."""
        value = self._get(key)
        if value is None:
            return None
        try:
            return parse_instant(value if isinstance(value, str) else str(value))
        except ValueError as error:
            self.fault(str(error), f"{key} = 2026-12-31T00:00:00Z", key)
            return None

    def table(self, key: str) -> Table | None:
        value = self._get(key)
        return None if value is None else Table((*self.path, key), value, self._faults)

    def tables(self, key: str) -> Iterator[Table]:
        """The tables in a list; none where there is no list."""
        value = self._get(key)
        if value is not None and not isinstance(value, list):
            self.fault("it must be a list of tables", f"write [[{dotted((*self.path, key))}]]", key)
            return
        for at, one in enumerate(value or []):
            yield Table((*self.path, key, at), one, self._faults)

    def named(self, key: str) -> Iterator[tuple[str, Table]]:
        """The tables in a table, by their names, which are keys."""
        table = self.table(key)
        if table is None:
            return
        for name, one in table._values.items():
            table.check_key(name, name)
            yield name, Table((*table.path, name), one, self._faults)

    def items(self) -> Iterator[tuple[str, object]]:
        """All of it, where any name may stand."""
        self._known |= dict.fromkeys(self._values)
        yield from self._values.items()

    def _get(self, key: str, is_required: bool = False) -> object:
        self._known[key] = None
        value = self._values.get(key)
        if value is None and is_required:
            self.fault(f"it must say {key}", f"add {key} = …")
        return value

    def _number(self, key: str, value: object) -> Decimal | None:
        if value is None:
            return None
        try:
            if isinstance(value, bool) or not isinstance(value, int | str):
                raise ValueError("it must be a number")
            return parse(str(value))
        except ValueError as error:
            self.fault(str(error), 'write a number such as "0.000002" (an exponent is refused by the engine)', key)
            return None
