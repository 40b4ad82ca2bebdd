"""`tollgate events`: the settlements' events and how their delivery stands."""

from __future__ import annotations

from typing import Annotated

import orjson
import typer

from proxy.admin import events
from proxy.admin.events import ListEvents, OneEvent, show_delivery, show_event
from proxy.admin.operation import Asked
from proxy.cli import letters, settlements
from proxy.cli.calling import call, listed
from proxy.cli.instants import short
from proxy.cli.output import Json, print_json, printable
from proxy.cli.tables import print_facts, print_table
from proxy.cli.wanted import ErrorText, From, Tenant, To
from proxy.model import EventState

app = typer.Typer(help="Events and how their delivery stands.", no_args_is_help=True)

_LISTED_MAX = 10_000


app.command("replay")(letters.replay)
app.command("discard")(letters.discard)
app.command("import")(settlements.import_events)


@app.command("status")
def status(ctx: typer.Context, as_json: Json = False) -> None:
    """Count the events that wait, that were refused, and all; warn before they are too late."""
    backlog = call(ctx, show_delivery, Asked())
    if as_json:
        print_json(backlog.json_object())
        return
    age_s = backlog.oldest_pending_age_s
    print_facts(
        [
            ("pending", backlog.pending),
            ("accepted", backlog.accepted),
            ("dead", backlog.dead),
            ("discarded", backlog.discarded),
            ("recorded", backlog.recorded),
            ("oldest pending", "" if age_s is None else f"{age_s:,} s old"),
            *([("warning", backlog.warning)] if backlog.warning else []),
        ]
    )


@app.command("list")
def list_events(
    ctx: typer.Context,
    tenant: Tenant = None,
    state: Annotated[EventState | None, typer.Option(help="Only those in this state.")] = None,
    error: ErrorText = "",
    begin: From = None,
    end: To = None,
    limit: Annotated[int, typer.Option(min=1, max=_LISTED_MAX, help="How many at most.")] = 20,
    as_json: Json = False,
) -> None:
    """List events, the newest first."""
    asked = ListEvents(tenant_id=tenant, state=state, error=error, begin=begin, end=end)
    found = listed(ctx, events.list_events, asked, limit)
    if as_json:
        print_json([event.json_object() for event in found])
        return
    print_table(
        ("time", "id", "tenant", "endpoint", "model", "status", "outcome", "tokens", "source", "state", "attempts"),
        [
            (
                short(event.time),
                event.id,
                event.subject,
                event.endpoint,
                event.model,
                event.status,
                event.outcome,
                event.total_tokens,
                event.usage_source,
                str(event.state),
                event.attempts,
            )
            for event in found
        ],
        empty="There are no such events.",
    )


@app.command("show")
def show(
    ctx: typer.Context,
    event_id: Annotated[str, typer.Argument(metavar="EVENT_ID", help="The request's id.")],
    as_json: Json = False,
) -> None:
    """Show a request's event (or events) as sent, and how the delivery stands."""
    shown = call(ctx, show_event, OneEvent(event_id=event_id))
    if as_json:
        print_json(shown.json_object())
        return
    for event in shown.events:
        lines = orjson.dumps(event, option=orjson.OPT_INDENT_2).decode().split("\n")
        typer.echo("\n".join(map(printable, lines)) + "\n")
    print_facts(
        [
            ("key", shown.key_id),
            ("state", str(shown.state)),
            ("attempts", shown.attempts),
            ("last words", shown.error),
            ("delivered", short(shown.delivered_at)),
            *([("discarded because", shown.reason)] if shown.reason else []),
        ]
    )
