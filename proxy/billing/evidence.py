"""What there is to diagnose a set-up by: what the ledger knows, and what the engine tells."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from proxy.billing.deployment import Found, read
from proxy.billing.enrolment import plan_id_of, subjects_of
from proxy.billing.openmeter import Document, OpenMeter
from proxy.errors import EngineError
from proxy.instants import iso_short

#: Events that are read back, the newest first.
EVENTS_MAX = 1_000
_DAY_MS = 86_400_000


class Mistake(StrEnum):
    """The classic ones. Programs go by these words: they stay."""

    UNREACHABLE = "unreachable"
    TOKEN_INVALID = "token_invalid"  # noqa: S105 (a name)
    ROLE_MISSING = "role_missing"
    BASE_URL = "base_url"
    CLOCK_SKEW = "clock_skew"
    PLAN_UNPUBLISHED = "plan_unpublished"
    METER_EVENT_TYPE = "meter_event_type"
    METER_VALUE = "meter_value"
    FILTER_DATED_MODEL = "filter_dated_model"
    NO_CUSTOMER = "no_customer"
    NOT_ATTRIBUTED = "not_attributed"
    NO_SUBSCRIPTION = "no_subscription"
    SUBSCRIPTION_LATE = "subscription_late"
    OTHER_PLAN = "other_plan"
    EVENTS_REFUSED = "events_refused"
    DEDUPLICATION_OFF = "deduplication_off"
    OUTBOX_LATE = "outbox_late"


@dataclass(frozen=True, slots=True)
class Finding:
    """A mistake that was made: where, and what to do about it."""

    code: Mistake
    what: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Books:
    """What the ledger knows.

    `subjects` are those whose usage is to be billed: all tenants that can call, and all that were used lately. `plans`
    says what they are subscribed to here, `first_ms` when they were first used, `models` what upstreams answered with
    lately, `waiting_ms` the time of the oldest event that the sink has not taken.
    """

    now_ms: int
    source: str
    profile: str
    subjects: tuple[str, ...] = ()
    plans: Mapping[str, str] = field(default_factory=dict)
    first_ms: Mapping[str, int] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    waiting_ms: int | None = None


@dataclass(slots=True)
class Evidence:
    """What the engine tells; of what it does not tell, `refused` says why, by the path that was asked."""

    books: Books
    found: Found = field(default_factory=lambda: Found({}, {}, {}))
    customers: list[Document] = field(default_factory=list)
    subscriptions: list[Document] = field(default_factory=list)
    profiles: list[Document] = field(default_factory=list)
    events: list[Document] = field(default_factory=list)
    ahead_s: float | None = None
    refused: dict[str, EngineError] = field(default_factory=dict)

    def customer(self, subject: str) -> Document | None:
        """Whom the usage of a subject is attributed to: the customer with that key, or else with that subject."""
        by_key = next((one for one in self.customers if one.get("key") == subject), None)
        return by_key or next((one for one in self.customers if subject in subjects_of(one)), None)

    def subscriptions_of(self, customer: Document) -> list[Document]:
        return [one for one in self.subscriptions if one.get("customer_id") == customer.get("id")]

    def plans_in_use(self) -> list[Document]:
        """The versions of plans that somebody is subscribed to, and those that somebody here is to be subscribed to."""
        ids = {plan_id_of(one) for one in self.subscriptions if one.get("status") == "active"}
        keys = set(self.books.plans.values())
        versions = [one for known in self.found.plans.values() for one in known]
        return [one for one in versions if one["id"] in ids or (one["key"] in keys and one.get("status") == "active")]

    def features_in_use(self) -> list[Document]:
        """What those plans charge for."""
        ids = {
            inner(card, "feature").get("id")
            for plan in self.plans_in_use()
            for phase in plan.get("phases") or []
            for card in phase.get("rate_cards") or []
        }
        return [one for one in self.found.features.values() if one["id"] in ids]

    def meter_of(self, feature: Document) -> Document | None:
        known = inner(feature, "meter").get("id")
        return next((one for one in self.found.meters.values() if one["id"] == known), None)


async def gather(engine: OpenMeter, books: Books) -> Evidence:
    """Ask for everything. Where the first question is not answered, no other is asked."""
    evidence = Evidence(books)
    try:
        evidence.found = await read(engine)
    except EngineError as error:
        evidence.refused["/meters, /features, /plans"] = error
        return evidence
    for path, items in (
        ("/customers", evidence.customers),
        ("/subscriptions", evidence.subscriptions),
        ("/profiles", evidence.profiles),
    ):
        await _collect(evidence, path, engine.by_number(path), items)
    since = iso_short(books.now_ms - _DAY_MS)
    asked = {"filter[source][eq]": books.source, "filter[time][gte]": since}
    await _collect(evidence, "/events", engine.by_cursor("/events", asked), evidence.events)
    evidence.ahead_s = engine.ahead_s
    return evidence


async def _collect(evidence: Evidence, path: str, listed: AsyncIterator[Document], items: list[Document]) -> None:
    try:
        async for one in listed:
            if not one.get("deleted_at"):
                items.append(one)
            if path == "/events" and len(items) >= EVENTS_MAX:
                return
    except EngineError as error:
        evidence.refused[path] = error


def inner(document: Document, *keys: str) -> Document:
    """A table in a table; an empty one where there is none."""
    for key in keys:
        found = document.get(key)
        document = found if isinstance(found, dict) else {}
    return document
