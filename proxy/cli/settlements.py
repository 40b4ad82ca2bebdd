"""`tollgate events import`: settlements that the ledger could not take, back from a log."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from typing import Annotated

import typer

from proxy.billing.prices import PriceBook
from proxy.cli.instants import now_ms
from proxy.cli.opening import open_store
from proxy.cli.output import Json, complain, print_facts, print_json
from proxy.store.database import begin
from proxy.store.unrecorded import Unrecorded, Way, take_in, unrecorded_in

_CHUNK_SETTLEMENTS = 500


@dataclass(slots=True)
class _Tally:
    imported: int = 0
    known: int = 0
    bad: int = 0


def import_events(
    log: Annotated[
        typer.FileBinaryRead,
        typer.Argument(metavar="[FILE]", help="A log of the server's standard error; without one, standard input."),
    ] = "-",  # type: ignore[assignment] # typer opens it
    as_json: Json = False,
) -> None:
    """Take settlements back in that a server wrote to standard error, because its ledger could not be written.

    Other lines are passed over, and so is what comes before the JSON in a line. What the ledger knows already is
    counted and left alone, so that a log may be imported twice. The exit code is 1 where a line is damaged.
    """
    settings, database = open_store()
    prices = PriceBook.of(settings.prices.file)
    tally = _Tally()
    with closing(database.connect()) as connection:
        found = (_costed(one, prices) for one in _settlements(log, tally))
        while chunk := [*islice(found, _CHUNK_SETTLEMENTS)]:
            _take_in(connection, chunk, tally)
    if as_json:
        print_json({"imported": tally.imported, "known": tally.known, "bad": tally.bad})
    else:
        print_facts([("imported", tally.imported), ("known already", tally.known), ("bad lines", tally.bad)])
    if tally.bad:
        raise typer.Exit(1)


def _settlements(log: Iterable[bytes], tally: _Tally) -> Iterator[Unrecorded]:
    for number, line in enumerate(log, 1):
        try:
            found = unrecorded_in(line)
        except ValueError as error:
            complain(f"line {number}: {error}")
            tally.bad += 1
        else:
            if found is not None:
                yield found


def _costed(one: Unrecorded, prices: PriceBook) -> Unrecorded:
    """With its cost, where it comes from a version that knew of none. A background response has none yet."""
    return one if one.way is Way.LATER else replace(one, settlement=prices.costed(one.settlement))


def _take_in(connection: sqlite3.Connection, chunk: Iterable[Unrecorded], tally: _Tally) -> None:
    imported = known = 0
    with begin(connection):
        for one in chunk:
            if take_in(connection, one, now_ms()):
                imported += 1
            else:
                known += 1
    tally.imported += imported
    tally.known += known
