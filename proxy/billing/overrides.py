"""The operator's own prices: a TOML file of entries, each for some models of some providers, from a date on.

Of the entries that fit a request the last in the file holds, whole. A file with a mistake is refused whole, and told
with its line and key.
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from proxy.billing.tariff import FREE, HOUR_MS, MILLION, Holding, Rates, Tariff, parts
from proxy.errors import ConfigurationError
from proxy.limits import matches

_TABLE = "price"
#: The keys of prices: what they are the price of, and for how many of it.
PRICES: dict[str, tuple[str, int]] = {
    "input_per_million": ("uncached_input", MILLION),
    "cached_input_per_million": ("cached_input", MILLION),
    "cache_write_per_million": ("cache_write", MILLION),
    "audio_input_per_million": ("audio_input", MILLION),
    "image_input_per_million": ("image_input", MILLION),
    "output_per_million": ("text_output", MILLION),
    "reasoning_per_million": ("reasoning", MILLION),
    "audio_output_per_million": ("audio_output", MILLION),
    "image_output_per_million": ("image_output", MILLION),
    "characters_per_million": ("characters", MILLION),
    "per_image": ("images", 1),
    "per_audio_hour": ("audio_ms", HOUR_MS),
    "per_request": ("request", 1),
}
_KEYS = ("model", "provider", "service_tier", "from", "free", "tiers", *PRICES)
_TIER_KEYS = ("above_input_tokens", *(key for key in PRICES if key.endswith("_per_million")))

_PLACES_MAX = 12
_USD_MAX = 1_000_000
_TOKENS_MAX = 10**9
_NUMBER = re.compile(r"[0-9]{1,10}(\.[0-9]{1,30})?")
#: The cheapest models cost about a cent for a million tokens, the dearest a thousand dollars.
_USUAL = (Decimal("0.001"), Decimal(10_000))
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry: patterns of names, and the tariff that holds from then on (unix milliseconds)."""

    model: str
    provider: str
    tier: str
    from_ms: float
    tariff: Tariff

    def fits(self, provider: str, model: str, tier: str) -> bool:
        fits = fnmatchcase(provider, self.provider) and fnmatchcase(tier, self.tier)
        return fits and matches(self.model, model)


@dataclass(frozen=True, slots=True)
class Overrides:
    """The entries of a file, in its order; and what is odd about it, in words."""

    entries: tuple[Entry, ...] = ()
    doubts: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: str | None) -> Overrides:
        """Those of a file, or none without one. Raises `ConfigurationError`, which names line and key."""
        if path is None:
            return cls()
        try:
            text = Path(path).read_text("utf-8")
            document = tomllib.loads(text, parse_float=Decimal)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{_SETTING}: cannot read {path}: {error}") from None
        except (tomllib.TOMLDecodeError, InvalidOperation) as error:
            raise ConfigurationError(f"{_SETTING}: {path}: {error}") from None
        return _read(document, _Place(path, text))

    def find(self, provider: str, model: str, time_ms: int, tier: str = "") -> Holding:
        """Names are compared as they are, models also without their date; `provider` is what events call it."""
        fitting = [entry for entry in self.entries if entry.fits(provider, model, tier)]
        starts = [entry.from_ms for entry in fitting]
        tariff = next((entry.tariff for entry in reversed(fitting) if entry.from_ms <= time_ms), None)
        return Holding(
            tariff,
            max((start for start in starts if start <= time_ms), default=-math.inf),
            min((start for start in starts if start > time_ms), default=math.inf),
        )


_SETTING = "prices.file (TOLLGATE_PRICES__FILE)"


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in a file something stands: the entry's number, from 1, and the tier's within it."""

    path: str
    text: str
    entry: int = 0
    tier: int = 0

    def error(self, key: str, words: str) -> ConfigurationError:
        return ConfigurationError(f"{_SETTING}: {self.path}: {self.named(key)}: {words}")

    def named(self, key: str) -> str:
        """`line 12: price 2: input_per_million`, by what lines begin with; without the line where none does."""
        entries = tiers = line = 0
        for number, written in enumerate(self.text.splitlines(), 1):
            bare = written.strip().replace(" ", "")
            if bare.startswith("[[price]]"):
                entries, tiers = entries + 1, 0
            elif bare.startswith("[[price.tiers]]"):
                tiers += 1
            if (entries, tiers) == (self.entry, self.tier) and re.match(rf"[\"']?{re.escape(key)}[\"']?=|\[", bare):
                line = number
        name = f"price {self.entry}: {key}" if self.entry else key
        return f"line {line}: {name}" if line else name


def _read(document: Mapping[str, Any], place: _Place) -> Overrides:
    for key in document:
        if key != _TABLE:
            raise place.error(key, f"is not known; begin each entry with [[{_TABLE}]]")
    rows = document.get(_TABLE, [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise place.error(_TABLE, f"begin each entry with [[{_TABLE}]]")
    doubts: list[str] = []
    entries = []
    for number, row in enumerate(rows, 1):
        entries.append(_entry(row, _Place(place.path, place.text, number), doubts))
    return Overrides(tuple(entries), tuple(doubts))


def _entry(row: Mapping[str, Any], place: _Place, doubts: list[str]) -> Entry:
    _check_keys(row, _KEYS, place)
    names = {key: row.get(key, "*") for key in ("model", "provider", "service_tier")}
    for key, name in names.items():
        if not isinstance(name, str) or not name or (key == "model" and key not in row):
            raise place.error(key, "name it, or a pattern such as gpt-4o*")
    free = row.get("free", False)
    prices = [key for key in (*PRICES, "tiers") if key in row]
    if not isinstance(free, bool) or (free and prices):
        raise place.error("free", "write free = true, without prices")
    if not free and not prices:
        raise place.error("model", "has no price: give it one, or write free = true")
    origin = f"{place.path}: {place.named('model')} = {names['model']}"
    tariff = Tariff((FREE,), (), origin) if free else _tariff(row, place, origin, doubts)
    return Entry(names["model"], names["provider"], names["service_tier"], _from_ms(row.get("from"), place), tariff)


def _tariff(row: Mapping[str, Any], place: _Place, origin: str, doubts: list[str]) -> Tariff:
    tiers = row.get("tiers", [])
    if not isinstance(tiers, list) or not all(isinstance(tier, dict) for tier in tiers):
        raise place.error("tiers", f"write [[{_TABLE}.tiers]] before each")
    known = dict(_rates(row, place, doubts))
    starts: list[int] = []
    rates = [Rates(**known).filled()]
    for number, tier in enumerate(tiers, 1):
        at = _Place(place.path, place.text, place.entry, number)
        _check_keys(tier, _TIER_KEYS, at)
        start = tier.get("above_input_tokens")
        if type(start) is not int or not (starts[-1] if starts else -1) < start <= _TOKENS_MAX:
            raise at.error("above_input_tokens", "a number of tokens, larger than that of the tier before")
        known |= _rates(tier, at, doubts)
        starts.append(start)
        rates.append(Rates(**known).filled())
    return Tariff(tuple(rates), tuple(starts), origin)


def _rates(row: Mapping[str, Any], place: _Place, doubts: list[str]) -> Iterator[tuple[str, int]]:
    for key, value in row.items():
        if key in PRICES:
            name, per = PRICES[key]
            usd = _usd(key, value, place)
            if per == MILLION and usd and not _USUAL[0] <= usd <= _USUAL[1]:
                doubts.append(
                    f"{place.path}: {place.named(key)}: {usd:f} dollars for a million is unusual; is it for one?"
                )
            yield name, parts(usd, per)


def _usd(key: str, value: object, place: _Place) -> Decimal:
    written = f"{value:f}" if isinstance(value, Decimal) else str(value)
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal) or not _NUMBER.fullmatch(written):
        raise place.error(key, 'write dollars, such as "2.50"')
    usd = Decimal(written)
    if len(written.partition(".")[2].rstrip("0")) > _PLACES_MAX or usd > _USD_MAX:
        raise place.error(key, f"at most {_USD_MAX} dollars, with at most {_PLACES_MAX} places after the point")
    return usd


def _from_ms(value: object, place: _Place) -> float:
    if value is None:
        return -math.inf
    if isinstance(value, datetime) and value.tzinfo is not None:
        return (value - _EPOCH) // timedelta(milliseconds=1)
    if isinstance(value, date) and not isinstance(value, datetime):
        return (datetime.combine(value, time(), UTC) - _EPOCH).days * 86_400_000
    raise place.error("from", "write a date (its midnight in UTC), or an instant with its offset: 2026-04-01T00:00:00Z")


def _check_keys(row: Mapping[str, Any], known: Sequence[str], place: _Place) -> None:
    for key in row:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            raise place.error(key, f"is not known.{f' Did you mean {close[0]}?' if close else ''}")
