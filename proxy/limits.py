"""What somebody may use: limits as they are written (`UNIT/WINDOW=VALUE`), and the windows they are counted in."""

from __future__ import annotations

import re
from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from fnmatch import fnmatchcase
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from proxy.model import BUCKETS, TIMELESS, Counted, Unit, Usage, Window
from proxy.money import PICO, PICO_MAX, dollars, pico_of
from proxy.wire.models import family

#: Kinds of tokens that a limit may count alone: both sides, and the buckets of `Usage`.
KINDS = ("input", "output", *BUCKETS)
#: Those that are known, roughly, before a request is answered.
INPUT_KINDS = frozenset({"input", "uncached_input", "cached_input", "cache_write", "audio_input"})

VALUE_MAX = 2**53
#: The largest limit in money, in dollars.
USD_MAX = PICO_MAX // PICO
_WRITTEN = re.compile(r"([a-z_]+)(?:/([a-z]+))?=([0-9][0-9_]{0,30}(?:\.[0-9]{1,60})?)")
_MODEL_CHARS_MAX = 256

#: Sliding windows are kept by the second: what came in one is forgotten together, its last instant a minute old.
SLIDING_MS = 61_000
SECOND_MS = 1_000
_HOUR_MS = 3_600_000
_EVER_MS = 2**62
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


def counts(counted: Counted, model: str) -> bool:
    """Whether requests to (or answered by) this model are counted."""
    return not counted.model or matches(counted.model, model)


def amount_of(counted: Counted, usage: Usage, pico_usd: int) -> int:
    """What a settled request adds that has used and cost this."""
    if counted.unit is Unit.USD:
        return pico_usd
    if counted.unit is not Unit.TOKENS:
        return 1
    match counted.kind:
        case "":
            return usage.total_tokens
        case "input":
            return usage.prompt_tokens
        case "output":
            return usage.completion_tokens
        case bucket:
            amount: int = getattr(usage, bucket)
            return amount


def shown(unit: Unit, amount: int) -> int | str:
    """An amount as JSON has it: money as a decimal string of dollars."""
    return dollars(amount) if unit is Unit.USD else amount


def told(unit: Unit, amount: int) -> str:
    """An amount as people read it: `10,000`, `0.25`."""
    return dollars(amount) if unit is Unit.USD else f"{amount:,}"


@dataclass(frozen=True, slots=True)
class Written:
    """One limit as people write it, whoever it is for. The value of one in `usd` is in pico-dollars."""

    unit: Unit
    window: Window
    value: int

    @classmethod
    def parse(cls, text: str) -> Written:
        """`tokens/month=10000`, `inflight=5`. Raises `ValueError`, worded for the user."""
        found = _WRITTEN.fullmatch(text.strip())
        if found is None:
            raise ValueError(f"{text!r}: write a limit as UNIT/WINDOW=VALUE, such as tokens/month=10000")
        unit_name, window_name, digits = found.groups()
        if unit_name not in [*Unit]:
            raise ValueError(f"{text!r}: '{unit_name}' is no unit; use {', '.join(Unit)}")
        unit = Unit(unit_name)
        if window_name is None and unit not in TIMELESS:
            raise ValueError(f"{text!r}: say in which window, such as {unit}/month; there are {', '.join(Window)}")
        if window_name is not None and window_name not in [*Window]:
            raise ValueError(f"{text!r}: '{window_name}' is no window; use {', '.join(Window)}")
        if unit in TIMELESS and window_name not in (None, Window.TOTAL):
            raise ValueError(f"{text!r}: {unit} has no window; write {unit}={digits}")
        return cls(unit, Window(window_name or Window.TOTAL), _value(text, unit, digits))


def _value(text: str, unit: Unit, digits: str) -> int:
    if unit is Unit.USD:
        try:
            value, most = pico_of(digits), PICO_MAX
        except ValueError as error:
            raise ValueError(f"{text!r}: {error}") from None
    elif "." in digits:
        raise ValueError(f"{text!r}: {unit} are whole; only usd has places after the point")
    else:
        value, most = int(digits.replace("_", "")), VALUE_MAX
    if value > most:
        raise ValueError(f"{text!r}: at most {USD_MAX if unit is Unit.USD else most}")
    return value


def check_filters(unit: Unit, model: str, kind: str) -> None:
    """Raises `ValueError`, worded for the user."""
    if kind and (unit is not Unit.TOKENS or kind not in KINDS):
        what = (
            f"'{kind}' is no kind of tokens; use {', '.join(KINDS)}" if unit is Unit.TOKENS else f"{unit} has no kinds"
        )
        raise ValueError(what)
    if len(model) > _MODEL_CHARS_MAX or not model.isprintable():
        raise ValueError(f"a model's pattern has at most {_MODEL_CHARS_MAX} printable characters")


@lru_cache(maxsize=4096)
def matches(pattern: str, model: str) -> bool:
    """Whether a pattern such as `gpt-4o*` means this model, by its name or by its name without its date."""
    return fnmatchcase(model, pattern) or fnmatchcase(family(model), pattern)


class Calendar:
    """Where days, months and periods begin, in one time zone."""

    def __init__(self, zone: tzinfo = UTC) -> None:
        self._zone = zone

    @classmethod
    def of(cls, name: str) -> Calendar:
        """Of a time zone such as `Europe/Berlin`. Raises `ValueError`, worded for the user."""
        try:
            return cls(UTC if name == "UTC" else ZoneInfo(name))
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"{name!r} is no time zone; use a name such as Europe/Berlin") from None

    def bounds(self, window: Window, now_ms: int, anchor_ms: int = 0) -> tuple[int, int]:
        """The first instant of the window that `now_ms` lies in, and of the next. A minute's slides (`SLIDING_MS`)."""
        match window:
            case Window.MINUTE:
                return now_ms - SLIDING_MS, now_ms
            case Window.TOTAL:
                return 0, _EVER_MS
            case Window.HOUR:
                start_ms = now_ms - now_ms % _HOUR_MS
                return start_ms, start_ms + _HOUR_MS
        local = (_EPOCH + now_ms * _MS).astimezone(self._zone)
        midnight = datetime(local.year, local.month, local.day)
        match window:
            case Window.DAY:
                return self._instant(midnight), self._instant(midnight + timedelta(days=1))
            case Window.MONTH:
                first = midnight.replace(day=1)
                return self._instant(first), self._instant(_months_later(first, 1))
        anchor = (_EPOCH + anchor_ms * _MS).astimezone(self._zone).replace(tzinfo=None)
        count = (local.year - anchor.year) * 12 + local.month - anchor.month
        while self._instant(_months_later(anchor, count)) > now_ms:
            count -= 1
        while self._instant(_months_later(anchor, count + 1)) <= now_ms:
            count += 1
        return self._instant(_months_later(anchor, count)), self._instant(_months_later(anchor, count + 1))

    def date_of(self, ms: int) -> date:
        """The day that an instant lies in."""
        return (_EPOCH + ms * _MS).astimezone(self._zone).date()

    def begin_of(self, day: date) -> int:
        """The first instant of a day."""
        return self._instant(datetime(day.year, day.month, day.day))

    def later(self, ms: int, *, months: int = 0, days: int = 0) -> int:
        """The same time of day so many months, and then days, later; on the last day of a month that is too short."""
        wall = (_EPOCH + ms * _MS).astimezone(self._zone).replace(tzinfo=None)
        return self._instant(_months_later(wall, months) + timedelta(days=days))

    def _instant(self, wall: datetime) -> int:
        return (wall.replace(tzinfo=self._zone).astimezone(UTC) - _EPOCH) // _MS


def _months_later(wall: datetime, count: int) -> datetime:
    """The same day some months later, or the last one of a month that is shorter."""
    year, month = divmod(wall.year * 12 + wall.month - 1 + count, 12)
    return wall.replace(year=year, month=month + 1, day=min(wall.day, monthrange(year, month + 1)[1]))
