"""`tollgate events replay` and `discard`: what becomes of events that the sink refused for good."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Annotated, TypeVar

import typer

from proxy.admin.letters import DiscardLetters, Moved, MoveLetters, discard_events, replay_events
from proxy.admin.operation import Operation
from proxy.cli.calling import call
from proxy.cli.output import Json, complain, print_json
from proxy.cli.wanted import ErrorText, From, Tenant, To

A = TypeVar("A", bound=MoveLetters)
M = TypeVar("M", bound=Moved)

Ids = Annotated[list[str] | None, typer.Argument(metavar="EVENT_ID", help="The requests' ids.")]
All = Annotated[bool, typer.Option("--all", help="Every dead letter.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count them.")]


def replay(
    ctx: typer.Context,
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
    asked = MoveLetters(
        ids=ids or [], every=every, error=error, begin=begin_at, end=end_at, tenant_id=tenant, dry_run=dry_run
    )
    events = old = 0
    for page in _pages(ctx, replay_events, asked):
        events, old = events + page.replayed, old + page.older_than_a_day
    if as_json:
        print_json({"replayed": events, "older_than_a_day": old, "dry_run": dry_run})
        return
    typer.echo(_events(events, f"{'would' if dry_run else 'will'} be sent again"))
    if old:
        complain(
            f"{old:,} of them are older than a day, which is how long receivers drop repeats: "
            "`tollgate reconcile` shows whether one was counted already"
        )


def discard(
    ctx: typer.Context,
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
    asked = DiscardLetters(
        reason=reason,
        ids=ids or [],
        every=every,
        error=error,
        begin=begin_at,
        end=end_at,
        tenant_id=tenant,
        dry_run=dry_run,
    )
    moved = sum(page.discarded for page in _pages(ctx, discard_events, asked))
    if as_json:
        print_json({"discarded": moved, "dry_run": dry_run})
    else:
        typer.echo(_events(moved, "would be discarded" if dry_run else "discarded"))


def _pages(ctx: typer.Context, operation: Operation[A, M], asked: A) -> Iterator[M]:
    """What becomes of all that is meant, a page at a time."""
    following: str | None = ""
    while following is not None:
        begun = time.monotonic()
        page = call(ctx, operation, asked.model_copy(update={"after": following}))
        yield page
        following = page.next
        if following is not None and not asked.dry_run:
            # SQLite's lock has no queue: a server that waits for it must find it free now and then.
            time.sleep(time.monotonic() - begun)


def _events(count: int, what: str) -> str:
    return f"{count:,} event{'' if count == 1 else 's'} {what}"
