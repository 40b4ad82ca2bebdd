"""Where each key of a TOML document stands. `tomllib` reads values and forgets their lines; this finds them again.

It is only for documents that `tomllib` has read: what it would refuse is not noticed here.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter

#: A key of the document: the names of tables, and the indices of arrays, on the way to it.
Path = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_STRINGS = (r'"""(?:\\.|[^\\])*?"{3,5}', r"'''.*?'{3,5}", r'"(?:\\.|[^"\\])*"', r"'[^']*'")
_STRING = re.compile("|".join(_STRINGS), re.DOTALL)
_SCALAR = re.compile(r"[^,\]}#\n]*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_DOT = re.compile(r"[ \t]*\.[ \t]*")


class Positions:
    """The lines, from 1, of all keys and elements."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line, self._counted = 1, 0
        self._lines: dict[Path, int] = {}
        #: How many elements each array of tables has so far.
        self._tables: Counter[Path] = Counter()
        self._document()

    def line(self, path: Path) -> int:
        """Where a key stands; one that is not there, where the table is that it is missing from."""
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 1)

    @property
    def paths(self) -> frozenset[Path]:
        return frozenset(self._lines)

    def _document(self) -> None:
        base: Path = ()
        while self._skip():
            if self._take("[["):
                base = self._header(is_array=True)
            elif self._take("["):
                base = self._header(is_array=False)
            else:
                self._pair(base)

    def _header(self, *, is_array: bool) -> Path:
        self._skip()
        *outer, last = self._key()
        path = self._named((), outer)
        path = (*path, last)
        if is_array:
            self._note(path)
            self._tables[path] += 1
        path = self._inner(path)
        self._note(path)
        self._skip()
        self._take("]]" if is_array else "]")
        return path

    def _pair(self, base: Path) -> None:
        path = self._named(base, self._key())
        self._skip()
        self._take("=")
        self._skip()
        self._value(path)

    def _value(self, path: Path) -> None:
        if self._take("{"):
            while self._skip() and not self._take("}"):
                self._pair(path)
                self._skip()
                self._take(",")
        elif self._take("["):
            count = 0
            while self._skip() and not self._take("]"):
                self._note((*path, count))
                self._value((*path, count))
                count += 1
                self._skip()
                self._take(",")
        else:
            found = _STRING.match(self._text, self._at) or _SCALAR.match(self._text, self._at)
            assert found is not None
            self._at = found.end()

    def _named(self, base: Path, parts: list[str]) -> Path:
        """The path to a dotted key; tables on the way to it are there from then on."""
        path = base
        for part in parts:
            path = self._inner((*path, part))
            self._note(path)
        return path

    def _inner(self, path: Path) -> Path:
        """Of an array of tables its last element is meant."""
        return (*path, self._tables[path] - 1) if path in self._tables else path

    def _key(self) -> list[str]:
        parts = []
        while True:
            found = _STRING.match(self._text, self._at) or _BARE.match(self._text, self._at)
            assert found is not None
            self._at = found.end()
            written = found.group()
            parts.append(str(tomllib.loads(f"x = {written}")["x"]) if written[0] in "\"'" else written)
            dot = _DOT.match(self._text, self._at)
            if dot is None:
                return parts
            self._at = dot.end()

    def _skip(self) -> bool:
        """Go on to what is neither blank nor a comment; whether there is any."""
        found = _BLANK.match(self._text, self._at)
        assert found is not None
        self._at = found.end()
        return self._at < len(self._text)

    def _take(self, what: str) -> bool:
        is_there = self._text.startswith(what, self._at)
        self._at += len(what) * is_there
        return is_there

    def _note(self, path: Path) -> None:
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        self._lines.setdefault(path, self._line)
