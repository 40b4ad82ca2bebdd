"""`tollgate events replay` and `discard`: what becomes of events that the sink refused for good."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Annotated

import typer

from proxy.cli.instants import now_ms
from proxy.cli.opening import open_store
from proxy.cli.output import Json, complain, print_json
from proxy.cli.usage import check_subject
from proxy.cli.wanted import ErrorText, From, Tenant, To, wanted_of
from proxy.model import EventState
from proxy.store import letters
from proxy.store.database import begin
from proxy.store.ledger import EVERY, Wanted
from proxy.store.letters import Letter

#: How long receivers are sure to remember an event that they have taken (OpenMeter's default).
_REMEMBERED_MS = 86_400_000

_Move = Callable[[sqlite3.Connection, Sequence[Letter]], int]
Ids = Annotated[list[str] | None, typer.Argument(metavar="EVENT_ID", help="The requests' ids.")]
All = Annotated[bool, typer.Option("--all", help="Every dead letter.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count them.")]


@dataclass(slots=True)
class _Tally:
    """What a command has moved, or would."""

    events: int = 0
    old: int = 0

    def add(self, letters_: Sequence[Letter], moved: int, now_ms: int) -> None:
        self.events += moved
        self.old += sum(now_ms - letter.time_ms > _REMEMBERED_MS for letter in letters_)


def replay(
    ids: Ids = None,
    every: All = False,
    error: ErrorText = "",
    begin_at: From = None,
    end_at: To = None,
    tenant: Tenant = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Send dead letters again, with the same ids: those named, all, or those that fit every filter.

    Mend first what the receiver complained of. A discarded event is replayed by its id alone. Receivers drop repeats
    for about a day only. A dead letter was refused, so no receiver should have it; where it is older than that and you
    are in doubt, see what `tollgate reconcile` says first.
    """
    wanted = _wanted(ids, every, error, begin_at, end_at, tenant)
    _, database = open_store()
    with closing(database.connect()) as connection:
        _check_tenant(connection, tenant)
        if ids:
            tally = _replay_named(connection, ids, dry_run=dry_run)
        else:
            tally = _move_all(connection, wanted, letters.replay, dry_run=dry_run)
    if as_json:
        print_json({"replayed": tally.events, "older_than_a_day": tally.old, "dry_run": dry_run})
        return
    typer.echo(_events(tally.events, f"{'would' if dry_run else 'will'} be sent again"))
    if tally.old:
        complain(
            f"{tally.old:,} of them are older than a day, which is how long receivers drop repeats: "
            "`tollgate reconcile` shows whether one was counted already"
        )


def discard(
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; it is kept with the event.")],
    ids: Ids = None,
    every: All = False,
    error: ErrorText = "",
    begin_at: From = None,
    end_at: To = None,
    tenant: Tenant = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Give dead letters up: those named, all, or those that fit every filter.

    They stay in the ledger and in its totals, and can be replayed by their ids.
    """
    reason = reason.strip()
    if not reason:
        raise typer.BadParameter("say why: it is kept with the event", param_hint="--reason")
    wanted = _wanted(ids, every, error, begin_at, end_at, tenant)
    _, database = open_store()

    def give_up(connection: sqlite3.Connection, page: Sequence[Letter]) -> int:
        return letters.discard(connection, page, reason)

    with closing(database.connect()) as connection:
        _check_tenant(connection, tenant)
        if ids:
            with begin(connection):
                dead = letters.named(connection, ids, EventState.DEAD)[EventState.DEAD]
                moved = len(dead) if dry_run else give_up(connection, dead)
        else:
            moved = _move_all(connection, wanted, give_up, dry_run=dry_run).events
    if as_json:
        print_json({"discarded": moved, "dry_run": dry_run})
    else:
        typer.echo(_events(moved, "would be discarded" if dry_run else "discarded"))


def _wanted(
    ids: list[str] | None, every: bool, error: str, begin_at: str | None, end_at: str | None, tenant: str | None
) -> Wanted:
    """What the filters say. Raises `typer.BadParameter` unless it is said, in one way, which letters are meant."""
    wanted = wanted_of(error, begin_at, end_at, tenant)
    if (bool(ids) + every + (wanted != EVERY)) != 1:
        raise typer.BadParameter("name the events by their ids, or by filters, or all of them by --all")
    return wanted


def _check_tenant(connection: sqlite3.Connection, tenant: str | None) -> None:
    if tenant is not None:
        check_subject(connection, tenant)


def _replay_named(connection: sqlite3.Connection, ids: Sequence[str], *, dry_run: bool) -> _Tally:
    """All of them or, where one cannot be replayed, none. Raises `StoreError`."""
    tally = _Tally()
    with begin(connection):
        for state, named in letters.named(connection, ids, EventState.DEAD, EventState.DISCARDED).items():
            tally.add(named, len(named) if dry_run else letters.replay(connection, named, state), now_ms())
    return tally


def _move_all(connection: sqlite3.Connection, wanted: Wanted, move: _Move, *, dry_run: bool) -> _Tally:
    tally = _Tally()
    for page in letters.pages(connection, wanted):
        if dry_run:
            tally.add(page, len(page), now_ms())
            continue
        begun = time.monotonic()
        with begin(connection):
            moved = move(connection, page)
        tally.add(page, moved, now_ms())
        # SQLite's lock has no queue: a server that waits for it must find it free now and then.
        time.sleep(time.monotonic() - begun)
    return tally


def _events(count: int, what: str) -> str:
    return f"{count:,} event{'' if count == 1 else 's'} {what}"
