"""What Tollgate emits, as meters see it: the types of its events, and what is in their data."""

from __future__ import annotations

from functools import cache
from typing import Any

from proxy.delivery.cloudevents import events_of
from proxy.model import NO_UNITS, NO_USAGE, Outcome, Settlement, Units, Usage, UsageSource

#: One for each profile of `TOLLGATE_SINK__PROFILE`. The ledger can be told in any of them.
EVENT_TYPES = ("llm_token_usage", "kong.llm_request", "prompt")


def settlement_like(
    subject: str,
    *,
    model: str = "",
    endpoint: str = "",
    usage: Usage = NO_USAGE,
    units: Units = NO_UNITS,
    usage_source: UsageSource = UsageSource.REPORTED,
) -> Settlement:
    """A request that says this much, and nothing else."""
    return Settlement(
        id="req",
        subject=subject,
        key_id="",
        time_ms=0,
        endpoint=endpoint,
        requested_model=model,
        model=model,
        provider="",
        streamed=False,
        status=200,
        outcome=Outcome.COMPLETED,
        usage=usage,
        usage_source=usage_source,
        duration_ms=0,
        ttft_ms=0,
        units=units,
    )


def events(settlement: Settlement, event_type: str) -> list[dict[str, Any]]:
    """The data of the events that a request is told in."""
    return [one["data"] for one in events_of(settlement, "tollgate", event_type)]


@cache
def data_keys(event_type: str) -> tuple[str, ...]:
    """What every event of this type has in its data."""
    return tuple(events(settlement_like("subject", usage=Usage(uncached_input=1)), event_type)[0])
