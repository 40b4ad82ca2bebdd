"""Operations on prepaid amounts, which are added to what a tenant may use in total."""

from __future__ import annotations

import re
import secrets
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from proxy.admin import standings
from proxy.admin.limits import Standing
from proxy.admin.operation import ID_CHARS_MAX, Answer, Asked, Context, Page, Paged, operation, page_of
from proxy.errors import WrongInput
from proxy.instants import iso
from proxy.limits import USD_MAX, VALUE_MAX, Written, shown
from proxy.model import Counted, Unit, Window
from proxy.money import PLACES
from proxy.store import limits as stored
from proxy.store import tenants
from proxy.store.spent import spent

_ID = re.compile(r"^[!-~]{1,128}$")
_NOTE_CHARS_MAX = 1_000


def _is_id(text: str) -> str:
    if not _ID.fullmatch(text):
        raise ValueError("use 1 to 128 printable ASCII characters without spaces")
    return text


def _is_number(value: object) -> object:
    if not isinstance(value, int | str) or isinstance(value, bool):
        raise ValueError("must be a whole number, or a decimal string")
    return value


class TopUp(Answer):
    """A prepaid amount."""

    id: str
    tenant_id: str
    unit: str
    amount: int | str
    """Of `usd`, dollars as a decimal string."""
    note: str
    created_at: str


class Added(Answer):
    """What came of it. `added` is false where this id was there already, and nothing was added."""

    id: str
    tenant_id: str
    unit: str
    amount: int | str
    added: bool
    total: Standing


class AddTopUp(Asked):
    tenant_id: str = Field(max_length=ID_CHARS_MAX)
    unit: Literal["tokens", "requests", "usd"]
    amount: Annotated[int | str, BeforeValidator(_is_number)]
    """More than 0; of `usd` also a decimal string such as `20.50`."""
    id: Annotated[str, AfterValidator(_is_id)] | None = Field(None, json_schema_extra={"pattern": _ID.pattern})
    """Such as the payment's. The same id again adds nothing. One is made if left out."""
    note: str = Field("", max_length=_NOTE_CHARS_MAX)
    """What it is for."""


class ListTopUps(Paged):
    tenant_id: str | None = None
    """Only this tenant's."""


def find(context: Context, asked: AddTopUp) -> int:
    """What the tenant has used in total: summing that may take longer than others should wait."""
    return spent(context.connection, _total(asked), context.calendar, context.now_ms)


@operation("POST", "/admin/tenants/{tenant_id}/top-ups", status=201, find=find)
def add_top_up(context: Context, asked: AddTopUp, used: int) -> Added:
    """Add a prepaid amount to what a tenant may use in total, once for each id."""
    connection, unit, amount = context.connection, Unit(asked.unit), _amount(asked)
    top_up_id = asked.id or "top_" + secrets.token_hex(8)
    added = stored.top_up(
        connection,
        asked.tenant_id,
        unit,
        amount,
        top_up_id=top_up_id,
        note=asked.note,
        now_ms=context.now_ms,
    )
    (limit,) = (one for one in stored.effective(connection, asked.tenant_id) if one.counted == _total(asked))
    total = Standing.model_validate(standings.standing_json(standings.Standing(limit, used, None)))
    return Added(
        id=top_up_id, tenant_id=asked.tenant_id, unit=unit, amount=shown(unit, amount), added=added, total=total
    )


@operation("GET", "/admin/top-ups")
def list_top_ups(context: Context, asked: ListTopUps) -> Page[TopUp]:
    """List prepaid amounts, the newest first."""
    connection = context.connection
    if asked.tenant_id is not None:
        tenants.tenant(connection, asked.tenant_id)
    if asked.after and not stored.has_top_up(connection, asked.after):
        raise WrongInput(f"there is no top-up {asked.after}", "after")
    found = stored.top_ups(connection, asked.tenant_id or "", after=asked.after, limit=asked.limit + 1)
    return page_of(found, asked.limit, _top_up, lambda one: one.id)


def _total(asked: AddTopUp) -> Counted:
    return Counted("tenant", asked.tenant_id, Unit(asked.unit), Window.TOTAL)


def _amount(asked: AddTopUp) -> int:
    """In the unit's own numbers. Raises `WrongInput`."""
    try:
        value = Written.parse(f"{asked.unit}/total={asked.amount}").value
    except ValueError:
        value = 0
    if not value:
        most = f"{USD_MAX} dollars, with {PLACES} places" if asked.unit == "usd" else f"{VALUE_MAX}, and whole"
        raise WrongInput(f"must be more than 0, and at most {most}", "amount")
    return value


def _top_up(one: stored.TopUp) -> TopUp:
    return TopUp(
        id=one.id,
        tenant_id=one.tenant_id,
        unit=one.unit,
        amount=shown(Unit(one.unit), one.amount),
        note=one.note,
        created_at=iso(one.time_ms),
    )
