"""`tollgate explain`: how one settlement came about, from what was asked to what the sink said."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from proxy.cli.events import found
from proxy.cli.instants import iso, iso_or_none, iso_short
from proxy.cli.output import Json, print_facts, print_json
from proxy.model import BUCKETS, UNITS, Settlement, UsageSource
from proxy.money import dollars
from proxy.store.ledger import Delivery
from proxy.wire.models import family


def explain(
    request_id: Annotated[
        str, typer.Argument(metavar="REQUEST_ID", help="As x-tollgate-request-id in the answer said.")
    ],
    as_json: Json = False,
) -> None:
    """Explain what was asked, what was used and who says so, and what became of the event."""
    delivery, events = found(request_id)
    if as_json:
        print_json(_json(delivery, events))
    else:
        print_facts(_facts(delivery, events))


def _json(delivery: Delivery, events: list[dict[str, Any]]) -> dict[str, Any]:
    one = delivery.settlement
    return {
        "id": one.id,
        "asked": {
            "time": iso(one.time_ms),
            "subject": one.subject,
            "key_id": one.key_id,
            "endpoint": one.endpoint,
            "model": one.requested_model,
            "streamed": one.streamed,
        },
        "answered": {
            "status": one.status,
            "upstream": one.upstream,
            "provider": one.provider,
            "model": one.model,
            "model_family": family(one.model),
            "response_id": one.response_id,
            "outcome": str(one.outcome),
            "on_disconnect": one.on_disconnect,
            "ttft_ms": one.ttft_ms,
            "duration_ms": one.duration_ms,
        },
        "usage": {
            "source": str(one.usage_source),
            "rule": _rule(one),
            "prompt_tokens": one.usage.prompt_tokens,
            "completion_tokens": one.usage.completion_tokens,
            "total_tokens": one.usage.total_tokens,
            "buckets": {name: getattr(one.usage, name) for name in BUCKETS},
            "units": {name: getattr(one.units, name) for name in UNITS},
        },
        "service_tier": one.service_tier,
        "cost": {"usd": dollars(one.cost.pico_usd), "state": str(one.cost.state)},
        "delivery": {
            "state": str(delivery.state),
            "attempts": delivery.attempts,
            "delivered_at": iso_or_none(delivery.delivered_ms),
            "error": delivery.error,
            "events": events,
        },
    }


def _facts(delivery: Delivery, events: list[dict[str, Any]]) -> list[tuple[str, str | int]]:
    one = delivery.settlement
    counts = [(name, getattr(one.usage, name)) for name in BUCKETS] + [(n, getattr(one.units, n)) for n in UNITS]
    left = f"; its client left, and it was {_LEFT[one.on_disconnect]}" if one.on_disconnect else ""
    kind = "a stream" if one.streamed else "a plain answer"
    return [
        ("asked", f"{one.endpoint} of {one.requested_model or 'no model'} for {kind}, at {iso(one.time_ms)}"),
        ("by", f"{one.subject}, with key {one.key_id}"),
        ("answered", f"{one.status} by {one.upstream} with {one.model or 'no model'} (family {family(one.model)})"),
        ("ended", f"{one.outcome} after {one.duration_ms} ms, first byte after {one.ttft_ms} ms{left}"),
        ("numbers", _rule(one)),
        *((f"  {name.replace('_', ' ')}", count) for name, count in counts if count),
        ("  total tokens", one.usage.total_tokens),
        ("cost", f"{dollars(one.cost.pico_usd)} USD ({one.cost.state}), at list prices of its time"),
        ("sent as", ", ".join(f"{event['type']} {event['id']}" for event in events) or "nothing: no token was used"),
        ("delivery", f"{delivery.state} after {delivery.attempts} attempts {iso_short(delivery.delivered_ms)}".strip()),
        *([("sink's words", delivery.error)] if delivery.error else []),
    ]


_LEFT = {"drain": "read on for its usage", "cancel": "closed at once"}


def _rule(one: Settlement) -> str:
    """Which rule the numbers come from."""
    if one.usage_source is UsageSource.REPORTED:
        return f"reported by the upstream, read from `{one.usage_path}` of its answer"
    if one.usage_source is UsageSource.ESTIMATED:
        return f"estimated with {one.estimator}, because the upstream reported nothing"
    return "none: the upstream reported nothing, and nothing was estimated"
