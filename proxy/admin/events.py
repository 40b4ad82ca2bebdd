"""Operations on events: what was recorded, and how its delivery stands."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from proxy.admin.operation import Answer, Asked, Context, Page, Paged, operation, page_of
from proxy.admin.usage import check_subject
from proxy.delivery.cloudevents import events_of
from proxy.delivery.watch import warning_of
from proxy.errors import NoSuch, WrongInput
from proxy.instants import iso, iso_or_none, parse_instant
from proxy.model import BUCKETS, UNITS, EventState, Settlement, UsageSource
from proxy.money import dollars
from proxy.store import ledger, outbox
from proxy.store.ledger import EVERY, Delivery, Wanted
from proxy.web.report import tokens_json
from proxy.wire.models import family

_WORDS_CHARS_MAX = 2_000


class Backlog(Answer):
    """How many events wait, were taken, refused for good, given up, and all."""

    pending: int
    accepted: int
    dead: int
    discarded: int
    recorded: int
    oldest_pending_age_s: int | None
    warning: str


class Event(Answer):
    """A request, how it ended, what it used, and how the delivery of its event stands."""

    id: str
    time: str
    subject: str
    key_id: str
    endpoint: str
    requested_model: str
    model: str
    provider: str
    streamed: bool
    status: int
    outcome: str
    usage_source: str
    duration_ms: int
    ttft_ms: int
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    buckets: dict[str, int]
    state: EventState
    attempts: int
    error: str
    """The receiver's last words."""
    delivered_at: str | None
    reason: str
    """Why it was discarded."""


class ShownEvent(Answer):
    """A request's events as they are sent, and how the delivery stands."""

    events: list[dict[str, Any]]
    key_id: str
    state: EventState
    attempts: int
    error: str
    delivered_at: str | None
    reason: str


class Explanation(Answer):
    """How one settlement came about, from what was asked to what the sink said."""

    id: str
    asked: dict[str, Any]
    answered: dict[str, Any]
    usage: dict[str, Any]
    service_tier: str
    cost: dict[str, str]
    delivery: dict[str, Any]


class Filters(Asked):
    """Which events are meant: those that fit every filter."""

    tenant_id: str | None = None
    """Only this tenant's (or subject's)."""
    error: str = Field("", max_length=_WORDS_CHARS_MAX)
    """Only those with this text in the receiver's words."""
    begin: str | None = Field(None, alias="from")
    """Only of requests that arrived since: a date or an RFC 3339 instant."""
    end: str | None = Field(None, alias="to")
    """Only of requests that arrived before."""

    @property
    def wanted(self) -> Wanted:
        """Raises `WrongInput` for an instant that is none, or an empty time."""
        from_ms = EVERY.from_ms if self.begin is None else _instant(self.begin, "from")
        to_ms = EVERY.to_ms if self.end is None else _instant(self.end, "to")
        if from_ms >= to_ms:
            raise WrongInput(f"{iso(from_ms)} is not before {iso(to_ms)}", "from")
        return Wanted(self.tenant_id or "", self.error, from_ms, to_ms)

    def check(self, context: Context) -> None:
        """Raises `NoSuch` for a tenant that never was."""
        if self.tenant_id is not None:
            check_subject(context.connection, self.tenant_id)


class ListEvents(Filters, Paged):
    state: EventState | None = None
    """Only those in this state."""


class OneEvent(Asked):
    event_id: str


@operation("GET", "/admin/delivery")
def show_delivery(context: Context, asked: Asked) -> Backlog:
    """Count the events that wait, that were refused, and all; warn before they are too late."""
    backlog, recorded = outbox.backlog(context.connection), outbox.recorded(context.connection)
    age_s = backlog.age_s(context.now_ms)
    return Backlog(
        pending=backlog.pending,
        accepted=recorded - backlog.pending - backlog.dead - backlog.discarded,
        dead=backlog.dead,
        discarded=backlog.discarded,
        recorded=recorded,
        oldest_pending_age_s=age_s,
        warning=warning_of(age_s) if context.settings.sink.is_set else "",
    )


@operation("GET", "/admin/events")
def list_events(context: Context, asked: ListEvents) -> Page[Event]:
    """List events, the newest first."""
    wanted = asked.wanted
    asked.check(context)
    if asked.after and ledger.event(context.connection, asked.after) is None:
        raise WrongInput(f"there is no event {asked.after}", "after")
    found = ledger.newest(context.connection, wanted, state=asked.state, after=asked.after, limit=asked.limit + 1)
    return page_of(found, asked.limit, _event, lambda one: one.settlement.id)


@operation("GET", "/admin/events/{event_id}")
def show_event(context: Context, asked: OneEvent) -> ShownEvent:
    """Show a request's event (or events) as sent, and how the delivery stands."""
    delivery, events = _found(context, asked)
    return ShownEvent.model_validate(
        {"events": events, "key_id": delivery.settlement.key_id} | _standing_json(delivery)
    )


@operation("GET", "/admin/events/{event_id}/explanation")
def explain(context: Context, asked: OneEvent) -> Explanation:
    """Explain what was asked, what was used and who says so, and what became of the event."""
    delivery, events = _found(context, asked)
    one = delivery.settlement
    return Explanation(
        id=one.id,
        asked={
            "time": iso(one.time_ms),
            "subject": one.subject,
            "key_id": one.key_id,
            "endpoint": one.endpoint,
            "model": one.requested_model,
            "streamed": one.streamed,
        },
        answered={
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
        usage={
            "source": str(one.usage_source),
            "rule": _rule(one),
            "prompt_tokens": one.usage.prompt_tokens,
            "completion_tokens": one.usage.completion_tokens,
            "total_tokens": one.usage.total_tokens,
            "buckets": {name: getattr(one.usage, name) for name in BUCKETS},
            "units": {name: getattr(one.units, name) for name in UNITS},
        },
        service_tier=one.service_tier,
        cost={"usd": dollars(one.cost.pico_usd), "state": str(one.cost.state)},
        delivery={
            "state": str(delivery.state),
            "attempts": delivery.attempts,
            "delivered_at": iso_or_none(delivery.delivered_ms),
            "error": delivery.error,
            "events": events,
        },
    )


def _found(context: Context, asked: OneEvent) -> tuple[Delivery, list[dict[str, Any]]]:
    """A settlement and its events as they are sent. Raises `NoSuch`."""
    delivery = ledger.event(context.connection, asked.event_id)
    if delivery is None:
        raise NoSuch(f"there is no event {asked.event_id}")
    sink = context.settings.sink
    return delivery, events_of(delivery.settlement, sink.source, sink.profile)


def _event(delivery: Delivery) -> Event:
    one = delivery.settlement
    said = {
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
    return Event.model_validate(said)


def _standing_json(delivery: Delivery) -> dict[str, Any]:
    return {
        "state": str(delivery.state),
        "attempts": delivery.attempts,
        "error": delivery.error,
        "delivered_at": iso_or_none(delivery.delivered_ms),
        "reason": delivery.reason,
    }


def _rule(one: Settlement) -> str:
    """Which rule the numbers come from."""
    if one.usage_source is UsageSource.REPORTED:
        return f"reported by the upstream, read from `{one.usage_path}` of its answer"
    if one.usage_source is UsageSource.ESTIMATED:
        return f"estimated with {one.estimator}, because the upstream reported nothing"
    return "none: the upstream reported nothing, and nothing was estimated"


def _instant(words: str, field: str) -> int:
    try:
        return parse_instant(words)
    except ValueError as error:
        raise WrongInput(str(error), field) from None
