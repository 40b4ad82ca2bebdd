"""`tollgate explain`: how one settlement came about, from what was asked to what the sink said."""

from __future__ import annotations

from typing import Annotated

import typer

from proxy.admin import events
from proxy.admin.events import Explanation, OneEvent
from proxy.cli.calling import call
from proxy.cli.instants import short
from proxy.cli.output import Json, print_json
from proxy.cli.tables import print_facts


def explain(
    ctx: typer.Context,
    request_id: Annotated[
        str, typer.Argument(metavar="REQUEST_ID", help="As x-tollgate-request-id in the answer said.")
    ],
    as_json: Json = False,
) -> None:
    """Explain what was asked, what was used and who says so, and what became of the event."""
    found = call(ctx, events.explain, OneEvent(event_id=request_id))
    if as_json:
        print_json(found.json_object())
    else:
        print_facts(_facts(found))


def _facts(one: Explanation) -> list[tuple[str, str | int]]:
    asked, answered, usage, delivery = one.asked, one.answered, one.usage, one.delivery
    counts = [*usage["buckets"].items(), *usage["units"].items()]
    left = answered["on_disconnect"]
    gone = f"; its client left, and it was {_LEFT[left]}" if left else ""
    kind = "a stream" if asked["streamed"] else "a plain answer"
    model = f"{answered['model'] or 'no model'} (family {answered['model_family']})"
    took = f"after {answered['duration_ms']} ms, first byte after {answered['ttft_ms']} ms"
    sent = ", ".join(f"{event['type']} {event['id']}" for event in delivery["events"])
    tries = f"{delivery['state']} after {delivery['attempts']} attempts {short(delivery['delivered_at'])}"
    return [
        ("asked", f"{asked['endpoint']} of {asked['model'] or 'no model'} for {kind}, at {asked['time']}"),
        ("by", f"{asked['subject']}, with key {asked['key_id']}"),
        ("answered", f"{answered['status']} by {answered['upstream']} with {model}"),
        ("ended", f"{answered['outcome']} {took}{gone}"),
        ("numbers", usage["rule"]),
        *((f"  {name.replace('_', ' ')}", count) for name, count in counts if count),
        ("  total tokens", usage["total_tokens"]),
        ("cost", f"{one.cost['usd']} USD ({one.cost['state']}), at list prices of its time"),
        ("sent as", sent or "nothing: no token was used"),
        ("delivery", tries.strip()),
        *([("sink's words", delivery["error"])] if delivery["error"] else []),
    ]


_LEFT = {"drain": "read on for its usage", "cancel": "closed at once"}
