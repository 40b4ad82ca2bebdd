"""The operation on settlements that the ledger could not take, and that come back out of a log."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from pydantic import Field

from proxy.admin.operation import Answer, Asked, Context, operation
from proxy.billing.prices import PriceBook
from proxy.errors import WrongInput
from proxy.store.unrecorded import Unrecorded, Way, take_in, unrecorded_in

#: Taking so many in takes some 10 ms, and the longest ones still fit into a body.
SETTLEMENTS_MAX = 200
_LINE_CHARS_MAX = 16_384


class Imported(Answer):
    """How many were taken in, and how many were known already and left alone."""

    imported: int
    known: int


class ImportSettlements(Asked):
    lines: list[Annotated[str, Field(max_length=_LINE_CHARS_MAX)]] = Field(max_length=SETTLEMENTS_MAX)
    """Lines of a server's standard error, each with one settlement in it. All of them are taken in, or none."""


def find(context: Context, asked: ImportSettlements) -> list[Unrecorded]:
    """The settlements, with their cost. Raises `WrongInput` for a line that has none, or a damaged one."""
    prices = PriceBook.of(context.settings.prices.file)
    found = []
    for number, line in enumerate(asked.lines):
        try:
            one = unrecorded_in(line.encode())
            if one is None:
                raise ValueError("there is no settlement in it")
        except ValueError as error:
            raise WrongInput(str(error), f"lines.{number}") from None
        found.append(_costed(one, prices))
    return found


def _costed(one: Unrecorded, prices: PriceBook) -> Unrecorded:
    """With its cost, where it comes from a version that knew of none. A background response has none yet."""
    return one if one.way is Way.LATER else replace(one, settlement=prices.costed(one.settlement))


@operation("POST", "/admin/events/import", find=find)
def import_events(context: Context, asked: ImportSettlements, found: list[Unrecorded]) -> Imported:
    """Take settlements back in that a server wrote to standard error, because its ledger could not be written."""
    taken = [one for one in found if take_in(context.connection, one, context.now_ms)]
    context.recorded.extend(one.settlement for one in taken if one.way is not Way.LATER)
    return Imported(imported=len(taken), known=len(found) - len(taken))
