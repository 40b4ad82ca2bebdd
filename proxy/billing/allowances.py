"""The entitlements of a plan as limits of the tenant, where a limit can say the same: `tokens/period=10000`."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.billing.catalog import Aggregation, Entitlement, Filter, RateCard, Snapshot
from proxy.limits import Written
from proxy.model import Unit, Window
from proxy.wire.models import family

_PERIOD = "P1M"
_WINDOWS = {"PT1H": Window.HOUR, "P1D": Window.DAY, _PERIOD: Window.PERIOD}
#: The kinds of tokens that limits count, by what meters add up.
_KINDS = {
    "$.total_tokens": "",
    "$.prompt_tokens": "input",
    "$.completion_tokens": "output",
    "$.cached_tokens": "cached_input",
    "$.reasoning_tokens": "reasoning",
}
_FAMILY = "$.model_family"
_ONE_EVENT = "llm_token_usage"
#: What means more than itself in a limit's pattern.
_WILD = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class Allowance:
    """A limit that says what an entitlement does."""

    written: Written
    model: str
    kind: str
    soft: bool


@dataclass(frozen=True, slots=True)
class Unheld:
    """An entitlement that no limit can say, and why: an engine may hold it, this proxy does not."""

    feature: str
    reason: str


def entitled(snapshot: Snapshot) -> list[str]:
    """The features of which a plan says how much may be used."""
    return [*dict.fromkeys(feature for phase in snapshot.plan.phases for feature in _entitled(phase.rate_cards))]


def allowances(snapshot: Snapshot) -> tuple[list[Allowance], list[Unheld]]:
    """What of a plan's entitlements can be held to by limits, and what cannot."""
    held: list[Allowance] = []
    unheld: list[Unheld] = []
    phases = [_entitled(phase.rate_cards) for phase in snapshot.plan.phases]
    for feature, entitlement in {key: value for phase in phases for key, value in phase.items()}.items():
        if any(phase.get(feature) != entitlement for phase in phases):
            found: Allowance | str = "it changes with the phases"
        else:
            found = _allowance(snapshot, feature, entitlement)
        if isinstance(found, str):
            unheld.append(Unheld(feature, found))
        elif any(_place(one) == _place(found) for one in held):
            unheld.append(Unheld(feature, "another feature has the same limit"))
        else:
            held.append(found)
    return held, unheld


def _entitled(cards: tuple[RateCard, ...]) -> dict[str, Entitlement]:
    return {card.feature: card.entitlement for card in cards if card.entitlement and card.entitlement.type == "metered"}


def _allowance(snapshot: Snapshot, feature: str, entitlement: Entitlement) -> Allowance | str:
    """The limit; or why there is none."""
    one = snapshot.features[feature]
    meter = snapshot.meters[one.meter]
    period = (entitlement.usage_period or snapshot.plan.billing_cadence).iso
    if period not in _WINDOWS:
        return f"limits do not renew every {period}"
    if meter.event_type != _ONE_EVENT or meter.events_from_ms is not None:
        return f"limits do not count what meter {meter.key} does"
    if meter.aggregation is Aggregation.COUNT:
        unit, kind = Unit.REQUESTS, ""
    elif meter.aggregation is Aggregation.SUM and meter.value_property in _KINDS:
        unit, kind = Unit.TOKENS, _KINDS[meter.value_property]
    else:
        return f"limits do not count what meter {meter.key} does"
    model = _pattern([(meter.dimensions[name], value) for name, value in one.filters.items()])
    if model is None:
        return "limits have no such filters"
    return Allowance(Written(unit, _WINDOWS[period], entitlement.limit), model, kind, entitlement.is_soft_limit)


def _pattern(filters: list[tuple[str, Filter]]) -> str | None:
    """The limit's pattern for models; None where there is none that means the same."""
    if not filters:
        return ""
    (path, one), *others = filters
    name = one.values[0]
    # A pattern means a model's name with and without its date, which is what a family is.
    is_same = path == _FAMILY and family(name) == name and not _WILD & {*name}
    return name if is_same and not others and one.operator in ("eq", "in") and len(one.values) == 1 else None


def _place(one: Allowance) -> tuple[object, ...]:
    return one.written.unit, one.written.window, one.model, one.kind
