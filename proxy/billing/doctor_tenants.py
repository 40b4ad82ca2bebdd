"""What can be wrong with tenants at an engine: whom their usage is attributed to, and what they are subscribed to."""

from __future__ import annotations

from collections.abc import Iterator

from proxy.billing.catalog import Catalog
from proxy.billing.enrolment import plan_id_of, subjects_of
from proxy.billing.evidence import Evidence, Finding, Mistake
from proxy.billing.openmeter import Document
from proxy.instants import iso_short, parse_instant

_SECOND_MS = 1_000


def check_customers(evidence: Evidence, _: Catalog) -> Iterator[Finding]:
    """Tenants whose usage is nobody's."""
    if "/customers" in evidence.refused:
        return
    for subject in evidence.books.subjects:
        if evidence.customer(subject) is None:
            what = f"tenant {subject} is no customer: its usage is billed to nobody"
            yield Finding(Mistake.NO_CUSTOMER, what, _onboard(evidence, subject))


def check_attribution(evidence: Evidence, _: Catalog) -> Iterator[Finding]:
    """Customers that have a tenant's key and not its usage, or another's usage."""
    for subject in evidence.books.subjects:
        customer = evidence.customer(subject)
        others = [str(one.get("key")) for one in evidence.customers if subject in subjects_of(one)]
        if customer is None or customer.get("key") != subject:
            continue
        if (subjects := subjects_of(customer)) and subject not in subjects:
            what = f"customer {subject} has the subjects {', '.join(subjects)}, and not {subject}"
            yield Finding(
                Mistake.NOT_ATTRIBUTED, what, f"add {subject} to its usage_attribution.subject_keys at the engine"
            )
        for other in others:
            if other != subject:
                what = f"{subject} is a customer, and a subject of customer {other} as well"
                yield Finding(
                    Mistake.NOT_ATTRIBUTED, what, f"take the subject {subject} from customer {other} at the engine"
                )


def check_subscriptions(evidence: Evidence, _: Catalog) -> Iterator[Finding]:
    """Customers that are subscribed to nothing, too late, or to another plan than here."""
    if evidence.refused.keys() & {"/customers", "/subscriptions"}:
        return
    for subject in evidence.books.subjects:
        customer = evidence.customer(subject)
        if customer is not None:
            yield from _subscribed(evidence, subject, evidence.subscriptions_of(customer))


def _subscribed(evidence: Evidence, subject: str, known: list[Document]) -> Iterator[Finding]:
    going_on = [one for one in known if one.get("status") in ("active", "scheduled")]
    if not going_on:
        what = f"customer {subject} has no subscription: its usage is billed by no plan"
        yield Finding(Mistake.NO_SUBSCRIPTION, what, _onboard(evidence, subject))
        return
    start_ms = min(map(_start_ms, known))
    first_ms = evidence.books.first_ms.get(subject)
    # An engine has whole seconds, of events and of periods.
    if first_ms is not None and first_ms // _SECOND_MS < start_ms // _SECOND_MS:
        what = (
            f"customer {subject} is subscribed since {iso_short(start_ms)}, and was first used at"
            f" {iso_short(first_ms)}: what lies between is on no invoice"
        )
        yield Finding(
            Mistake.SUBSCRIPTION_LATE, what, "onboard before you hand out a key; bill what lies between by hand"
        )
    here = evidence.books.plans.get(subject)
    there = {_plan_key(evidence, one) for one in going_on}
    if here is not None and here not in there:
        what = f"{subject} is on plan {here} here, and on {', '.join(sorted(there))} at the engine"
        yield Finding(Mistake.OTHER_PLAN, what, f"change the subscription at the engine, or here: {_change(subject)}")


def _plan_key(evidence: Evidence, subscription: Document) -> str:
    known = plan_id_of(subscription)
    return next(
        (key for key, versions in evidence.found.plans.items() if known in {one["id"] for one in versions}), "?"
    )


def _start_ms(subscription: Document) -> int:
    """When it began; Konnect says only when it was made, which is the same."""
    try:
        return parse_instant(str(subscription.get("active_from") or subscription.get("created_at")))
    except ValueError:
        return 0


def _onboard(evidence: Evidence, subject: str) -> str:
    return f"tollgate billing onboard {subject} --plan {evidence.books.plans.get(subject, 'PLAN')}"


def _change(subject: str) -> str:
    return f"tollgate billing change {subject} --plan PLAN"
