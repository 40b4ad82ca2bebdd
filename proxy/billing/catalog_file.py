"""`billing.toml`, read strictly: all that an engine would refuse, or bill otherwise than meant, is told here."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping
from importlib.resources import files
from pathlib import Path as FilePath
from typing import Literal

from proxy.billing.catalog import BILLABLE, Aggregation, Catalog, Feature, Filter, Meter
from proxy.billing.emitted import EVENT_TYPES, data_keys
from proxy.billing.jsonpath import steps
from proxy.billing.plan_file import read_plan
from proxy.billing.positions import Positions
from proxy.billing.reading import Fault, Table, Unquoted, nearest
from proxy.errors import CatalogError
from proxy.model import SUBJECT_PATTERN

#: Groupings that the engine has for every meter.
_RESERVED_DIMENSIONS = ("subject", "customer_id")
_DIMENSION = re.compile(r"[a-zA-Z_][0-9a-zA-Z_]*", re.ASCII)
_FILTERS_MAX = 10
_FILTER_VALUES_MAX = 100
_OPERATORS: tuple[Literal["eq", "neq", "in", "nin"], ...] = ("eq", "neq", "in", "nin")
_AT = re.compile(r"(.*) \(at line (\d+), column \d+\)", re.DOTALL)


def load(path: str | None) -> Catalog:
    """The catalog in this file; without one, the catalog that comes with Tollgate. Raises `CatalogError`."""
    try:
        if path is None:
            return parse((files("proxy.billing") / "billing.toml").read_text("utf-8"), "billing.toml")
        return parse(FilePath(path).read_text("utf-8"), path)
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogError([f"{path}: cannot be read: {error}"]) from None


def parse(text: str, name: str) -> Catalog:
    """The catalog in a text; `name` is the file's, for `CatalogError`, which tells all that is wrong."""
    text = text.replace("\r\n", "\n")
    try:
        document = tomllib.loads(text, parse_float=Unquoted)
    except tomllib.TOMLDecodeError as error:
        found = _AT.fullmatch(str(error))
        where, words = (found[2], found[1]) if found else (text.count("\n") + 1, str(error))
        raise CatalogError([f"{name}:{where}: {words}, fix: mend the TOML there"]) from None
    faults: list[Fault] = []
    catalog = _read(Table((), document, faults))
    if faults:
        positions = Positions(text)
        told = sorted({(positions.line(one.path), one.told()) for one in faults})
        raise CatalogError([f"{name}:{line}: {words}" for line, words in told])
    return catalog


def _read(root: Table) -> Catalog:
    meters = {key: _meter(key, table) for key, table in root.named("meters")}
    features = {key: _feature(key, table, meters) for key, table in root.named("features")}
    plans = {key: read_plan(key, table, features, meters) for key, table in root.named("plans")}
    subscriptions = _subscriptions(root.table("subscriptions"), plans)
    root.end()
    return Catalog(meters, features, plans, subscriptions)


def _meter(key: str, table: Table) -> Meter:
    event_type = table.choice("event_type", EVENT_TYPES)
    aggregation = table.choice("aggregation", tuple(Aggregation))
    value_property = table.text("value_property", "")
    if aggregation is Aggregation.COUNT and value_property:
        table.fault("a count has no value", "leave value_property away", "value_property")
    elif aggregation is not Aggregation.COUNT and not value_property:
        table.fault(f"{aggregation} is of a value", 'add value_property = "$.total_tokens"')
    elif value_property:
        _check_path(table, value_property, event_type, "value_property")
    dimensions: dict[str, str] = {}
    inner = table.table("dimensions")
    for name, path in inner.items() if inner else ():
        assert inner is not None
        dimensions[name] = str(path)
        if not _DIMENSION.fullmatch(name) or name in _RESERVED_DIMENSIONS:
            fix = f"use letters, digits and _, no digit first, and not {' or '.join(_RESERVED_DIMENSIONS)}"
            inner.fault("a dimension cannot have this name", fix, name)
        if path == value_property:
            inner.fault("it is the value that the meter adds up", "group by something else", name)
        _check_path(inner, str(path), event_type, name)
    one = Meter(
        key,
        table.name(key),
        event_type,
        aggregation,
        value_property,
        dimensions,
        table.text("description", ""),
        table.instant("events_from"),
    )
    table.end()
    return one


def _check_path(table: Table, path: str, event_type: str, key: str) -> None:
    try:
        first = steps(path)[0]
    except ValueError as error:
        table.fault(str(error), 'write it like "$.total_tokens"', key)
        return
    known = data_keys(event_type)
    if first not in known:
        fix = nearest(str(first), known)
        table.fault(f"events of type {event_type} have no {first!r} in their data", fix, key)


def _feature(key: str, table: Table, meters: Mapping[str, Meter]) -> Feature:
    meter, meter_key = table.reference("meter", meters), table.text("meter", "")
    if meter is not None and meter.aggregation not in BILLABLE:
        fix = f"use a meter that is a {', '.join(BILLABLE[:-1])} or {BILLABLE[-1]}"
        table.fault(f"the engine bills no {meter.aggregation}", fix, "meter")
    filters: dict[str, Filter] = {}
    inner = table.table("filters")
    for name, value in inner.items() if inner else ():
        assert inner is not None
        if meter is not None and name not in meter.dimensions:
            add = f"add it to meters.{meter.key}.dimensions"
            fix = f"{nearest(name, meter.dimensions)}, or {add}" if meter.dimensions else add
            inner.fault(f"meter {meter.key} has no such dimension", fix, name)
        elif not meter_key:
            inner.fault("a feature without a meter has nothing to filter", 'add meter = "…"', name)
        filters[name] = _filter(inner, name, value)
    if len(filters) > _FILTERS_MAX:
        table.fault(f"the engine takes {_FILTERS_MAX} filters at most", "take some away", "filters")
    one = Feature(key, table.name(key), meter_key, filters, table.text("description", ""))
    table.end()
    return one


def _filter(filters: Table, name: str, value: object) -> Filter:
    """`"one"`, `["one", "another"]`, or `{ nin = ["one"] }`."""
    operator: Literal["eq", "neq", "in", "nin"] = "eq"
    path: list[str] = [name]
    if isinstance(value, dict):
        found = [one for one in _OPERATORS if one in value]
        if len(value) != 1 or not found:
            filters.fault("it must have one operator", f"use one of {', '.join(_OPERATORS)}", name)
            return Filter("eq", ("",))
        operator, value = found[0], value[found[0]]
        path.append(operator)
    elif isinstance(value, list):
        operator = "in"
    is_list = operator in ("in", "nin")
    values = value if isinstance(value, list) else [value]
    if isinstance(value, list) != is_list or not all(type(one) is str for one in values):
        wanted = 'a list such as ["gpt-4o"]' if is_list else 'a text such as "gpt-4o"'
        filters.fault("dimensions are compared as texts", f"write {wanted}", *path)
    elif not 1 <= len(values) <= _FILTER_VALUES_MAX or len(set(values)) < len(values):
        filters.fault(f"it has none, more than {_FILTER_VALUES_MAX}, or one twice", "list each value once", *path)
    return Filter(operator, tuple(map(str, values)))


def _subscriptions(table: Table | None, plans: Collection[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for tenant, plan in table.items() if table else ():
        assert table is not None
        if not SUBJECT_PATTERN.fullmatch(tenant):
            table.fault("no tenant can have this id", "use 1 to 128 letters, digits and . _ : @ -", tenant)
        if not isinstance(plan, str) or plan not in plans:
            table.fault("there is no such plan", nearest(str(plan), plans), tenant)
        found[tenant] = str(plan)
    return found
