"""The classic mistakes of a set-up with a metering engine: each is one check, and has a remedy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from proxy.billing.catalog import Catalog
from proxy.billing.doctor_tenants import check_attribution, check_customers, check_subscriptions
from proxy.billing.durations import Duration
from proxy.billing.emitted import EVENT_TYPES, data_keys
from proxy.billing.evidence import Evidence, Finding, Mistake, inner
from proxy.billing.jsonpath import steps
from proxy.billing.openmeter import Document
from proxy.errors import EngineError, EngineRefused, EngineUnavailable
from proxy.limits import Calendar
from proxy.wire.models import family

#: Clocks that are further apart are told. A Date header has whole seconds, and the answer takes its time.
_AHEAD_S_MAX = 5
#: How long an engine waits after a period's end, where no billing profile says it.
_COLLECTION = "PT1H"


def diagnose(evidence: Evidence, catalog: Catalog) -> list[Finding]:
    """All that is found. Where the engine tells nothing, that alone."""
    access = [*check_access(evidence)]
    if any("/meters" in path for path in evidence.refused):
        return access
    return [*access, *(one for check in CHECKS for one in check(evidence, catalog))]


def check_access(evidence: Evidence) -> Iterator[Finding]:
    """A token that is wrong or lacks a role, a base URL that is wrong, an engine that is away."""
    for path, error in evidence.refused.items():
        code, remedy = _remedy(error)
        yield Finding(code, f"{path} cannot be read: {error}", remedy)


def _remedy(error: EngineError) -> tuple[Mistake, str]:
    if isinstance(error, EngineUnavailable):
        return Mistake.UNREACHABLE, "see whether it runs, and whether KONNECT_API_URL names its host and port"
    status = error.status if isinstance(error, EngineRefused) else 0
    match status:
        case 401:
            return Mistake.TOKEN_INVALID, "set KONNECT_TOKEN to a token that is in force"
        case 403:
            return Mistake.ROLE_MISSING, (
                "give the command a token with the roles Metering Admin, Product Catalog Admin and Billing Admin in"
                " KONNECT_TOKEN; the server's own needs Ingest alone"
            )
        case _:
            return Mistake.BASE_URL, (
                "KONNECT_API_URL ends in /v3/openmeter at Konnect (https://us.api.konghq.com/v3/openmeter), and in"
                " /api/v3/openmeter at a self-hosted OpenMeter"
            )


def check_meters(evidence: Evidence, _: Catalog) -> Iterator[Finding]:
    """Meters that never see what Tollgate emits, or see nothing in it."""
    profile = evidence.books.profile
    meters = {one["key"]: one for one in map(evidence.meter_of, evidence.features_in_use()) if one is not None}
    for key, meter in sorted(meters.items()):
        event_type, value = meter.get("event_type"), meter.get("value_property")
        if event_type != profile:
            mend = f"set TOLLGATE_SINK__PROFILE={event_type}, or " if event_type in EVENT_TYPES else ""
            what = f"meter {key} counts events of type {event_type}, and Tollgate sends {profile}"
            yield Finding(Mistake.METER_EVENT_TYPE, what, f"{mend}sell by a meter of {profile}")
        elif value and not _is_emitted(value, profile):
            what = f"meter {key} reads {value}, which is not in events of type {profile}"
            yield Finding(Mistake.METER_VALUE, what, f"make a meter of one of {', '.join(data_keys(profile))}")


def _is_emitted(path: str, profile: str) -> bool:
    try:
        return steps(path)[0] in data_keys(profile)
    except ValueError:
        return False


def check_events(evidence: Evidence, _: Catalog) -> Iterator[Finding]:
    """Events that were answered 2xx, and add nothing to any usage: an engine says so only where they are read."""
    counts: Counter[str] = Counter()
    for one in evidence.events:
        errors = one.get("validation_errors")
        counts.update({str(error.get("message")) for error in errors or [] if isinstance(error, dict)})
    for words, count in sorted(counts.items()):
        remedy = "make its value what the meter reads, or another meter: tollgate billing plan"
        if "no meter" in words:
            remedy = "create the meter: tollgate billing apply"
        elif "no customer" in words:
            remedy = "make it a customer: tollgate billing onboard TENANT --plan PLAN"
        yield Finding(Mistake.EVENTS_REFUSED, f"{count} of the last {len(evidence.events)} events: {words}", remedy)


def check_duplicates(evidence: Evidence, _: Catalog) -> Iterator[Finding]:
    """What an engine has twice was counted twice."""
    counts = Counter(
        (event.get("source"), event.get("id")) for one in evidence.events if isinstance(event := one.get("event"), dict)
    )
    twice = sum(count > 1 for count in counts.values())
    if twice:
        remedy = "switch the sink's de-duplication on (sink.dedupe.enabled, with Redis), not the API's (dedupe.enabled)"
        yield Finding(
            Mistake.DEDUPLICATION_OFF, f"{twice} of the last events are stored twice: repeats are counted", remedy
        )


def check_plans(evidence: Evidence, catalog: Catalog) -> Iterator[Finding]:
    """Plans that somebody is to be on, and that cannot be subscribed to."""
    for key in sorted({*evidence.books.plans.values(), *catalog.subscriptions.values()}):
        if evidence.found.plan(key, "active") is None:
            is_draft = evidence.found.plan(key, "draft") is not None
            what = f"plan {key} is {'a draft' if is_draft else 'not there'}: nobody can be subscribed to it"
            yield Finding(Mistake.PLAN_UNPUBLISHED, what, "publish it: tollgate billing apply")


def check_filters(evidence: Evidence, _: Catalog) -> Iterator[Finding]:
    """Filters by a model that upstreams answer with another name of: `gpt-4o-mini-2024-07-18`."""
    for feature in evidence.features_in_use():
        meter = evidence.meter_of(feature) or {}
        for name, condition in inner(feature, "meter", "filters").items():
            if inner(meter, "dimensions").get(name) != "$.model":
                continue
            named = _named(condition)
            missed = [one for one in evidence.books.models if one not in named and family(one) in named]
            if named and missed:
                yield Finding(
                    Mistake.FILTER_DATED_MODEL,
                    f"feature {feature['key']} is filtered by model {', '.join(sorted(named))}, and upstreams answer"
                    f" with {', '.join(missed)}: that is billed by nobody",
                    "filter a new feature by model_family ($.model_family), which has no date, or name these as well",
                )


def _named(condition: Any) -> set[str]:
    """What a filter lets pass, where it says that."""
    if not isinstance(condition, dict):
        return set()
    return {str(one) for one in [condition.get("eq"), *(condition.get("in") or [])] if one is not None}


def check_outbox(evidence: Evidence, _: Catalog) -> Iterator[Finding]:
    """Events that wait for longer than an engine waits for them at the end of a billing period."""
    waiting_ms = evidence.books.waiting_ms
    interval, words = _collection(evidence.profiles)
    if waiting_ms is not None and interval.after(waiting_ms, Calendar()) < evidence.books.now_ms:
        minutes = (evidence.books.now_ms - waiting_ms) // 60_000
        what = (
            f"the oldest event has waited for {minutes} minutes, and the engine collects {words} after a period's end:"
            " what comes later is on no invoice"
        )
        yield Finding(Mistake.OUTBOX_LATE, what, "see what holds it up: tollgate events status")


def _collection(profiles: list[Document]) -> tuple[Duration, str]:
    """The collection interval of the default billing profile."""
    profile = next((one for one in profiles if one.get("default")), {})
    words = str(inner(profile, "workflow", "collection").get("interval") or _COLLECTION)
    try:
        return Duration.parse(words), words
    except ValueError:
        return Duration.parse(_COLLECTION), _COLLECTION


def check_clock(evidence: Evidence, _: Catalog) -> Iterator[Finding]:
    """Events have our clock's time, periods and subscriptions the engine's."""
    ahead_s = evidence.ahead_s
    if ahead_s is not None and abs(ahead_s) > _AHEAD_S_MAX:
        side = "ahead of" if ahead_s > 0 else "behind"
        what = f"the engine's clock is {abs(ahead_s):.0f} s {side} this machine's"
        yield Finding(Mistake.CLOCK_SKEW, what, "synchronise this machine's clock (NTP), or the engine's")


CHECKS: tuple[Callable[[Evidence, Catalog], Iterator[Finding]], ...] = (
    check_clock,
    check_plans,
    check_meters,
    check_filters,
    check_customers,
    check_attribution,
    check_subscriptions,
    check_events,
    check_duplicates,
    check_outbox,
)
