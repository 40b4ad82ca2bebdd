"""When billing periods begin and end: by a subscription's anchor, and cut where it, or a phase of its plan, does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from proxy.billing.catalog import Phase, Plan
from proxy.limits import Calendar
from proxy.store.subscriptions import Subscription

EVER_MS = 2**62


@dataclass(frozen=True, slots=True)
class BillingPeriod:
    """What is billed together: `[from_ms, to_ms)`, in one phase.

    `share` is how many whole billing periods it is: 1, or less where it is cut. `is_first`: the phase begins in it.
    """

    from_ms: int
    to_ms: int
    phase: Phase
    share: Fraction
    is_first: bool


class Outside(ValueError):
    """No billing period lies there. The message says why."""


class Timeline:
    """The billing periods of one subscription to a plan."""

    def __init__(self, subscription: Subscription, plan: Plan) -> None:
        self._subscription = subscription
        self._cadence = plan.billing_cadence
        self.calendar = Calendar.of(subscription.zone)
        self._pro_rates = plan.pro_rating_enabled
        self._phases = [*self._phases_of(plan)]

    def at(self, ms: int) -> BillingPeriod:
        """The billing period that an instant lies in. Raises `Outside`."""
        phase, begins, ends = self._phase_at(ms)
        from_ms, to_ms = self._whole(ms)
        return self._period(phase, max(from_ms, begins), min(to_ms, ends), begins)

    def between(self, from_ms: int, to_ms: int) -> BillingPeriod:
        """Any span, billed as if it were one period. Raises `Outside` where it is not in one phase."""
        phase, begins, ends = self._phase_at(from_ms)
        if to_ms > ends:
            raise Outside("the plan, or its phase, changes within it: ask for what is before and after by themselves")
        return self._period(phase, from_ms, to_ms, begins)

    def beginning_in(self, from_ms: int, to_ms: int) -> list[BillingPeriod]:
        """The billing periods whose first instant lies in a span."""
        found = []
        ms = max(from_ms, self._subscription.start_ms)
        end_ms = min(to_ms, self._phases[-1][2] if self._phases else 0)
        while ms < end_ms:
            period = self.at(ms)
            if period.from_ms >= from_ms:
                found.append(period)
            ms = period.to_ms
        return found

    def _phases_of(self, plan: Plan) -> Iterator[tuple[Phase, int, int]]:
        """The phases that the subscription comes to, and when each begins and ends."""
        begins = self._subscription.start_ms
        last = EVER_MS if self._subscription.end_ms is None else self._subscription.end_ms
        for phase in plan.phases:
            ends = last if phase.duration is None else min(last, phase.duration.after(begins, self.calendar))
            if begins < ends:
                yield phase, begins, ends
            begins = ends

    def _phase_at(self, ms: int) -> tuple[Phase, int, int]:
        for phase, begins, ends in self._phases:
            if begins <= ms < ends:
                return phase, begins, ends
        raise Outside("the tenant has no subscription then")

    def _whole(self, ms: int) -> tuple[int, int]:
        """The billing period by the anchor alone."""
        anchor_ms = self._subscription.anchor_ms
        count = (ms - anchor_ms) // self._cadence.about_ms
        while self._nth(count) > ms:
            count -= 1
        while self._nth(count + 1) <= ms:
            count += 1
        return self._nth(count), self._nth(count + 1)

    def _nth(self, count: int) -> int:
        return self._cadence.after(self._subscription.anchor_ms, self.calendar, count)

    def _period(self, phase: Phase, from_ms: int, to_ms: int, begins: int) -> BillingPeriod:
        share = Fraction(0)
        ms = from_ms
        while ms < to_ms:
            whole_from, whole_to = self._whole(ms)
            if self._pro_rates:
                share += Fraction(min(whole_to, to_ms) - ms, whole_to - whole_from)
            else:
                share += 1
            ms = whole_to
        return BillingPeriod(from_ms, to_ms, phase, share, is_first=from_ms <= begins < to_ms)
