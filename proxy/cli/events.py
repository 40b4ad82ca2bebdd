"""`tollgate events`: the settlements' events and how their delivery stands."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
import typer

from proxy.cli import letters, settlements
from proxy.cli.instants import iso, iso_or_none, iso_short, now_ms
from proxy.cli.opening import open_store, reading
from proxy.cli.output import Json, print_facts, print_json, print_table, printable
from proxy.cli.usage import check_subject
from proxy.cli.wanted import ErrorText, From, Tenant, To, wanted_of
from proxy.delivery.cloudevents import events_of
from proxy.delivery.watch import warning_of
from proxy.errors import StoreError
from proxy.model import EventState
from proxy.store import ledger, outbox
from proxy.store.ledger import Delivery
from proxy.web.report import tokens_json

app = typer.Typer(help="Events and how their delivery stands.", no_args_is_help=True)

_LISTED_MAX = 10_000


app.command("replay")(letters.replay)
app.command("discard")(letters.discard)
app.command("import")(settlements.import_events)


@app.command("status")
def status(as_json: Json = False) -> None:
    """Count the events that wait, that were refused, and all; warn before they are too late."""
    settings, database = open_store()
    with reading(database) as connection:
        backlog, recorded = outbox.backlog(connection), outbox.recorded(connection)
    age_s = backlog.age_s(now_ms())
    warning = warning_of(age_s) if settings.sink.is_set else ""
    accepted = recorded - backlog.pending - backlog.dead - backlog.discarded
    if as_json:
        print_json(
            {
                "pending": backlog.pending,
                "accepted": accepted,
                "dead": backlog.dead,
                "discarded": backlog.discarded,
                "recorded": recorded,
                "oldest_pending_age_s": age_s,
                "warning": warning,
            }
        )
        return
    print_facts(
        [
            ("pending", backlog.pending),
            ("accepted", accepted),
            ("dead", backlog.dead),
            ("discarded", backlog.discarded),
            ("recorded", recorded),
            ("oldest pending", "" if age_s is None else f"{age_s:,} s old"),
            *([("warning", warning)] if warning else []),
        ]
    )


@app.command("list")
def list_events(
    tenant: Tenant = None,
    state: Annotated[EventState | None, typer.Option(help="Only those in this state.")] = None,
    error: ErrorText = "",
    begin: From = None,
    end: To = None,
    limit: Annotated[int, typer.Option(min=1, max=_LISTED_MAX, help="How many at most.")] = 20,
    as_json: Json = False,
) -> None:
    """List events, the newest first."""
    wanted = wanted_of(error, begin, end, tenant)
    _, database = open_store()
    with reading(database) as connection:
        if tenant is not None:
            check_subject(connection, tenant)
        found = ledger.newest(connection, wanted, state=state, limit=limit)
    if as_json:
        print_json([_delivery_json(delivery) for delivery in found])
        return
    print_table(
        ("time", "id", "tenant", "endpoint", "model", "status", "outcome", "tokens", "source", "state", "attempts"),
        [
            (
                iso_short(delivery.settlement.time_ms),
                delivery.settlement.id,
                delivery.settlement.subject,
                delivery.settlement.endpoint,
                delivery.settlement.model,
                delivery.settlement.status,
                str(delivery.settlement.outcome),
                delivery.settlement.usage.total_tokens,
                str(delivery.settlement.usage_source),
                str(delivery.state),
                delivery.attempts,
            )
            for delivery in found
        ],
        empty="There are no such events.",
    )


@app.command("show")
def show(
    event_id: Annotated[str, typer.Argument(metavar="EVENT_ID", help="The request's id.")],
    as_json: Json = False,
) -> None:
    """Show a request's event (or events) as sent, and how the delivery stands."""
    delivery, events = found(event_id)
    if as_json:
        print_json({"events": events, "key_id": delivery.settlement.key_id} | _standing_json(delivery))
        return
    for event in events:
        lines = orjson.dumps(event, option=orjson.OPT_INDENT_2).decode().split("\n")
        typer.echo("\n".join(map(printable, lines)) + "\n")
    print_facts(
        [
            ("key", delivery.settlement.key_id),
            ("state", str(delivery.state)),
            ("attempts", delivery.attempts),
            ("last words", delivery.error),
            ("delivered", iso_short(delivery.delivered_ms)),
            *([("discarded because", delivery.reason)] if delivery.reason else []),
        ]
    )


def found(request_id: str) -> tuple[Delivery, list[dict[str, Any]]]:
    """A settlement and its events as they are sent. Raises `StoreError`."""
    settings, database = open_store()
    with reading(database) as connection:
        delivery = ledger.event(connection, request_id)
    if delivery is None:
        raise StoreError(f"there is no event {request_id}")
    return delivery, events_of(delivery.settlement, settings.sink.source, settings.sink.profile)


def _standing_json(delivery: Delivery) -> dict[str, Any]:
    return {
        "state": str(delivery.state),
        "attempts": delivery.attempts,
        "error": delivery.error,
        "delivered_at": iso_or_none(delivery.delivered_ms),
        "reason": delivery.reason,
    }


def _delivery_json(delivery: Delivery) -> dict[str, Any]:
    one = delivery.settlement
    return {
        "id": one.id,
        "time": iso(one.time_ms),
        "subject": one.subject,
        "key_id": one.key_id,
        "endpoint": one.endpoint,
        "requested_model": one.requested_model,
        "model": one.model,
        "provider": one.provider,
        "streamed": one.streamed,
        "status": one.status,
        "outcome": str(one.outcome),
        "usage_source": str(one.usage_source),
        "duration_ms": one.duration_ms,
        "ttft_ms": one.ttft_ms,
        **tokens_json(one.usage),
        **_standing_json(delivery),
    }
