"""`tollgate events import`: settlements that the ledger could not take, back from a log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Annotated

import typer

from proxy.admin import settlements
from proxy.admin.settlements import SETTLEMENTS_MAX, ImportSettlements
from proxy.cli.calling import call
from proxy.cli.output import Json, complain, print_json
from proxy.cli.tables import print_facts
from proxy.store.unrecorded import line_of, unrecorded_in


@dataclass(slots=True)
class _Tally:
    imported: int = 0
    known: int = 0
    bad: int = 0


def import_events(
    ctx: typer.Context,
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
    tally = _Tally()
    found = _settlements(log, tally)
    while chunk := [*islice(found, SETTLEMENTS_MAX)]:
        done = call(ctx, settlements.import_events, ImportSettlements(lines=chunk))
        tally.imported += done.imported
        tally.known += done.known
    if as_json:
        print_json({"imported": tally.imported, "known": tally.known, "bad": tally.bad})
    else:
        print_facts([("imported", tally.imported), ("known already", tally.known), ("bad lines", tally.bad)])
    if tally.bad:
        raise typer.Exit(1)


def _settlements(log: Iterable[bytes], tally: _Tally) -> Iterator[str]:
    for number, line in enumerate(log, 1):
        try:
            found = unrecorded_in(line)
        except ValueError as error:
            complain(f"line {number}: {error}")
            tally.bad += 1
        else:
            if found is not None:
                yield line_of(found)
