"""How what an engine has differs from what it is to have. Two ways of writing one thing are no difference."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

import orjson

from proxy.billing.durations import Duration
from proxy.billing.openmeter import Document
from proxy.instants import iso_short, parse_instant

#: What a meter never changes, and what it may.
METER_FIXED = ("event_type", "aggregation", "value_property", "events_from")
METER_MAY_CHANGE = ("name", "description", "dimensions")
#: What a plan's draft never changes, and what it may.
PLAN_FIXED = ("currency", "billing_cadence")
PLAN_MAY_CHANGE = ("name", "description", "pro_rating_enabled", "phases")

_DURATIONS = {"billing_cadence", "duration", "usage_period"}
_INSTANTS = {"events_from"}
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?", re.ASCII)
#: Where an engine says what it would have taken anyway.
_SILENT = {
    "payment_term": "in_arrears",
    "is_soft_limit": "false",
    "pro_rating_enabled": "true",
    "precision": "0",
    "rounding": "none",
}
#: What a catalog does not say of a rate card; its currency neither.
_NOT_OURS = {"labels", "tax_config", "display_unit"}
#: What is text, whatever it looks like.
_WORDS = {"name", "description", "key", "id"}
_NOTHING = "nothing"


def drift(wanted: Document, found: Document, keys: tuple[str, ...]) -> tuple[str, ...]:
    """What differs in these keys, in words: `name: 'A' is to be 'B'`."""
    left, right = (_facts({key: one[key] for key in keys if key in one}) for one in (wanted, found))
    return _told(left, right)


def feature_drift(wanted: Document, found: Document, meter_keys: Mapping[str, str]) -> tuple[str, ...]:
    """The same of a feature: by which meter, filtered how. `meter_keys` are our keys, by the engine's ids."""
    left, right = (_feature_facts(one, meter_keys) for one in (wanted, found))
    return _told(left, right)


def _told(wanted: Mapping[str, str], found: Mapping[str, str]) -> tuple[str, ...]:
    names = sorted({*wanted, *found}, key=lambda name: (name not in wanted, name))
    return tuple(
        f"{name}: {found.get(name, _NOTHING)} is to be {wanted.get(name, _NOTHING)}"
        for name in names
        if wanted.get(name) != found.get(name)
    )


def _facts(document: Document) -> dict[str, str]:
    return {name: text for name, text in _flat("", "", document) if _SILENT.get(_last(name)) != text}


def _flat(path: str, key: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for inner, one in value.items():
            if inner not in _NOT_OURS and not (inner == "currency" and path):
                yield from _flat(f"{path}.{inner}" if path else inner, inner, one)
    elif isinstance(value, list):
        for at, one in enumerate(value):
            yield from _flat(f"{path}[{at}]", key, one)
    elif value not in (None, ""):
        yield path, _text(key, value)


def _text(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    words = str(value)
    try:
        if key in _DURATIONS:
            return _duration(words)
        if key in _INSTANTS:
            return iso_short(parse_instant(words) // 1_000 * 1_000)
    except ValueError:
        return words
    is_number = key not in _WORDS and _NUMBER.fullmatch(words)
    return f"{Decimal(words).normalize():f}" if is_number else words


def _duration(words: str) -> str:
    """A year is twelve months, a week seven days."""
    one = Duration.parse(words)
    date = f"{one.months}M" * bool(one.months) + f"{one.days}D" * bool(one.days)
    return f"P{date}" + f"T{one.seconds}S" * bool(one.seconds)


def _feature_facts(feature: Document, meter_keys: Mapping[str, str]) -> dict[str, str]:
    meter = feature.get("meter")
    if not isinstance(meter, dict):
        return {}
    known = str(meter.get("id"))
    facts = {"meter": meter_keys.get(known, known)}
    filters = meter.get("filters")
    for name, one in (filters if isinstance(filters, dict) else {}).items():
        facts[f"filters.{name}"] = _condition(one)
    return facts


def _condition(one: Any) -> str:
    """`eq` is an `in` with one value."""
    said = {key: value for key, value in one.items() if value not in (None, [])} if isinstance(one, dict) else one
    if isinstance(said, dict) and len(said) == 1:
        ((operator, value),) = said.items()
        if operator in ("eq", "in", "neq", "nin"):
            values = value if isinstance(value, list) else [value]
            return f"{'not ' * operator.startswith('n')}{' or '.join(sorted(map(str, values)))}"
    return orjson.dumps(said, option=orjson.OPT_SORT_KEYS).decode()


def _last(name: str) -> str:
    return name.rpartition(".")[2]
