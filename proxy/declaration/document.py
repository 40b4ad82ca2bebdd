"""What a file may declare: `[plans.NAME]`, `[tenants.ID]` and `[[tenants.ID.keys]]`, checked as commands check it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import date, datetime
from functools import cached_property
from hashlib import sha256
from typing import Annotated, Any

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import ErrorDetails

from proxy.errors import StoreError, WrongDeclaration
from proxy.instants import parse_instant
from proxy.limits import Calendar, Written, check_filters
from proxy.model import Counted
from proxy.source import nearest
from proxy.store.limits import LIMITS_MAX, check_plan
from proxy.store.tenants import check_tenant_id, check_upstream_key

_HEX = re.compile(r"[0-9a-fA-F]{64}")
_OF_NOTHING = sha256(b"").hexdigest()
_BARE = re.compile(r"[A-Za-z0-9_-]+")
#: What a key in clear may be called. Nobody's secret is to stand in a file that is read by many.
_CLEAR = ("key", "secret", "token", "api_key", "password", "value", "plain", "cleartext")
_HASH_WORDS = "must be 64 hexadecimal digits: the SHA-256 of the key, as `tollgate keys hash` prints it"
_CLEAR_WORDS = "a key never stands here in clear: write its SHA-256, as `tollgate keys hash` prints it"

Location = tuple[str | int, ...]


def _checked(check: Callable[[str], object]) -> Callable[[str], str]:
    """A check of the store's, as pydantic wants it."""

    def checked(value: str) -> str:
        try:
            check(value)
        except StoreError as error:
            raise ValueError(str(error)) from None
        return value

    return checked


def _instant(value: object) -> object:
    """TOML's own dates and times, and what is written in quotes; a date is its first instant in UTC."""
    return _parsed(value, Calendar())


def _anchor(value: object, info: ValidationInfo) -> object:
    """The same; a date is its first instant where the limits' days begin."""
    return _parsed(value, (info.context or {})["calendar"])


def _parsed(value: object, calendar: Calendar) -> object:
    if isinstance(value, datetime) and value.tzinfo is None:
        raise ValueError("a time needs an offset, as in 2026-12-31T00:00:00Z")
    words = value.isoformat() if isinstance(value, date) else value
    if not isinstance(words, str):
        raise ValueError("must be a date such as 2026-12-31, or an instant such as 2026-12-31T00:00:00Z")
    return parse_instant(words, calendar)


def _limit_table(value: object) -> object:
    if not isinstance(value, str | dict):
        raise ValueError('must be text, such as "tokens/month=10000", or a table')
    return {"limit": value} if isinstance(value, str) else value


def _written(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError('must be text, such as "tokens/month=10000"')
    return Written.parse(value)


def _hash(value: str) -> str:
    if not _HEX.fullmatch(value):
        raise ValueError(_HASH_WORDS)  # without what was given: it may be the key itself
    if value.lower() == _OF_NOTHING:
        raise ValueError("is the SHA-256 of nothing at all")
    return value.lower()


def _model(value: str) -> str:
    if not value:
        raise ValueError("a model's name is empty")
    return value


class _Table(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, hide_input_in_errors=True, arbitrary_types_allowed=True
    )


class LimitTable(_Table):
    """`"tokens/month=10000"`, or a table where it has filters or is soft."""

    limit: Annotated[Written, BeforeValidator(_written)]
    model: str = ""
    kind: str = ""
    soft: bool = False

    @model_validator(mode="after")
    def _fits(self) -> LimitTable:
        check_filters(self.limit.unit, self.model, self.kind)
        return self

    @property
    def name(self) -> str:
        return Counted("", "", self.limit.unit, self.limit.window, self.model, self.kind).name


def _all_different(limits: list[LimitTable]) -> list[LimitTable]:
    """In an order that does not depend on the file's."""
    names = [one.name for one in limits]
    for at, name in enumerate(names):
        if name in names[:at]:
            raise ValueError(f"{name} is named twice")
    return sorted(limits, key=lambda one: one.name)


_Limits = Annotated[
    list[Annotated[LimitTable, BeforeValidator(_limit_table)]],
    Field(max_length=LIMITS_MAX),
    AfterValidator(_all_different),
]
_Instant = Annotated[int, BeforeValidator(_instant)]
_Anchor = Annotated[int, BeforeValidator(_anchor)]


class PlanTable(_Table):
    """What whoever is on this plan may use. `adopt`: take over the plan of this name that commands made."""

    limits: _Limits = []
    adopt: bool = False


class KeyTable(_Table):
    """A key, by its SHA-256 (64 hexadecimal digits). `expires` is in unix milliseconds."""

    sha256: Annotated[str, AfterValidator(_hash)]
    name: str = ""
    models: list[Annotated[str, AfterValidator(_model)]] = []
    trusted: bool = False
    expires: _Instant | None = None
    limits: _Limits = []


class TenantTable(_Table):
    """A tenant. `period_anchor` is in unix milliseconds. `adopt`: take over the one of this id that commands made."""

    name: str = ""
    plan: Annotated[str, AfterValidator(_checked(lambda name: name and check_plan(name)))] = ""
    disabled: bool = False
    period_anchor: _Anchor | None = None
    upstream_key: Annotated[str, AfterValidator(_checked(check_upstream_key))] = ""
    limits: _Limits = []
    keys: list[KeyTable] = []
    adopt: bool = False


class Declaration(_Table):
    """All that a file declares, in its order. `is_blank`: the file has nothing in it at all."""

    plans: dict[Annotated[str, AfterValidator(_checked(check_plan))], PlanTable] = {}
    tenants: dict[Annotated[str, AfterValidator(_checked(check_tenant_id))], TenantTable] = {}
    is_blank: bool = False

    @classmethod
    def read(cls, tables: Mapping[str, Any], calendar: Calendar, *, is_blank: bool = False) -> Declaration:
        """From the tables `plans` and `tenants` of a file. Raises `WrongDeclaration`."""
        try:
            found = cls.model_validate({**tables, "is_blank": is_blank}, context={"calendar": calendar})
        except ValidationError as error:
            raise _wrong(error, tables) from None
        found._check_hashes()
        return found

    @property
    def is_given(self) -> bool:
        """Whether the file has one of the tables at all."""
        return bool(self.model_fields_set & {"plans", "tenants"})

    @cached_property
    def digest(self) -> str:
        """The same for declarations that declare the same."""
        tenants = {
            name: tenant.model_copy(update={"keys": sorted(tenant.keys, key=lambda key: key.sha256)})
            for name, tenant in self.tenants.items()
        }
        parts = {"plans": self.plans, "tenants": tenants}
        return sha256(orjson.dumps(parts, default=BaseModel.model_dump, option=orjson.OPT_SORT_KEYS)).hexdigest()

    def wrong(self, location: Location, words: str) -> WrongDeclaration:
        """An error at a place such as `("tenants", "acme", "keys", 0)`."""
        return _error(location, words, {"plans": self.plans, "tenants": self.tenants})

    def _check_hashes(self) -> None:
        places: dict[str, str] = {}
        for tenant_id, tenant in self.tenants.items():
            for at, key in enumerate(tenant.keys):
                location = ("tenants", tenant_id, "keys", at, "sha256")
                before = places.setdefault(key.sha256, _path(location))
                if before != _path(location):
                    raise self.wrong(location, f"this is also the key at {before}")


#: The tables that a list's entries are, and those that have a name.
_ENTRIES: dict[str, type[BaseModel]] = {
    "limits": LimitTable,
    "keys": KeyTable,
    "plans": PlanTable,
    "tenants": TenantTable,
}
_MEMBERS = {*_ENTRIES, *(name for table in _ENTRIES.values() for name in table.model_fields)}


def _wrong(error: ValidationError, tables: Mapping[str, Any]) -> WrongDeclaration:
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    fault = next((one for one in faults if _is_secret(one)), faults[0])
    location: Location = tuple(part for part in fault["loc"] if part != "[key]")
    words = fault["msg"].removeprefix("Value error, ")
    match fault["type"]:
        case "extra_forbidden" if _is_secret(fault):
            words = _CLEAR_WORDS
        case "extra_forbidden":
            words = f"is not known.{nearest(str(location[-1]), [*_table_at(location).model_fields])}"
        case "missing":
            words = "is missing"
        case "model_type" | "dict_type":
            words = "must be a table" + ", with the key's sha256" * (location[-2:-1] == ("keys",))
        case "value_error" if location[-1] == "limit":
            location = location[:-1]  # one that is written as text has no such member
    return _error(location, words, tables)


def _is_secret(fault: ErrorDetails) -> bool:
    location = fault["loc"]
    return fault["type"] == "extra_forbidden" and _table_at(location) is KeyTable and location[-1] in _CLEAR


def _table_at(location: Location) -> type[BaseModel]:
    """Which table a member was looked for in: that of `keys[0].secret`, of `tenants.acme.secret`."""
    return _ENTRIES[str(location[-3])]


def _error(location: Location, words: str, tables: Mapping[str, Any]) -> WrongDeclaration:
    public = [*location]
    if len(location) > 1:
        public[1] = [*tables[str(location[0])]].index(location[1])
    place = _path(tuple(part for part in public if isinstance(part, int) or part in _MEMBERS))
    return WrongDeclaration(f"{_path(location)}: {words}", place)


def _path(location: Location) -> str:
    """As TOML would write it, but for the numbers: `tenants.acme.keys[0].sha256`; of nothing, the file."""
    parts = [
        f"[{part}]" if isinstance(part, int) else f".{part if _BARE.fullmatch(part) else orjson.dumps(part).decode()}"
        for part in location
    ]
    return "".join(parts).removeprefix(".") or "the file"
