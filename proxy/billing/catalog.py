"""The catalog: meters, features, plans and their rate cards, as values with OpenMeter's names and meanings.

What a plan costs is said here once. It is rated by it here (`rating`), and what is sent to an engine is mapped from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from functools import cache
from typing import Any, Literal, cast

from pydantic import TypeAdapter

from proxy.billing.durations import Duration


class Aggregation(StrEnum):
    """How a meter makes one value of many events."""

    SUM = "sum"
    COUNT = "count"
    AVG = "avg"
    MIN = "min"
    MAX = "max"
    UNIQUE_COUNT = "unique_count"
    LATEST = "latest"


#: What a feature may be metered by; OpenMeter refuses the others.
BILLABLE = (Aggregation.SUM, Aggregation.COUNT, Aggregation.UNIQUE_COUNT, Aggregation.LATEST)


@dataclass(frozen=True, slots=True)
class Meter:
    """What is counted of events with one type.

    `value_property` and the values of `dimensions` are JSONPaths into an event's `data`; the former is empty where
    events are only counted. `events_from_ms` is the first instant that counts; None: all do.
    """

    key: str
    name: str
    event_type: str
    aggregation: Aggregation
    value_property: str = ""
    dimensions: Mapping[str, str] = field(default_factory=dict)
    description: str = ""
    events_from_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Filter:
    """What a dimension must be: `eq` or `neq` one value, `in` or `nin` several. Compared letter by letter."""

    operator: Literal["eq", "neq", "in", "nin"]
    values: tuple[str, ...]

    def passes(self, value: str) -> bool:
        return (value in self.values) == (self.operator in ("eq", "in"))


@dataclass(frozen=True, slots=True)
class Feature:
    """What is sold: what a meter counts, where its dimensions pass the filters. Without a meter, it is had or not."""

    key: str
    name: str
    meter: str = ""
    filters: Mapping[str, Filter] = field(default_factory=dict)
    description: str = ""


@dataclass(frozen=True, slots=True)
class Free:
    """Nothing is charged."""

    type: Literal["free"] = "free"


@dataclass(frozen=True, slots=True)
class Flat:
    """An amount a period, or once."""

    amount: Decimal
    type: Literal["flat"] = "flat"


@dataclass(frozen=True, slots=True)
class PerUnit:
    """An amount for each single unit that was metered: for each token, not for a thousand."""

    amount: Decimal
    type: Literal["unit"] = "unit"


@dataclass(frozen=True, slots=True)
class Package:
    """An amount for each package that was begun. (v1 `package`; v3 a unit price with a `unit_config`.)"""

    amount: Decimal
    quantity_per_package: Decimal
    type: Literal["package"] = "package"


@dataclass(frozen=True, slots=True)
class Tier:
    """From the end of the tier before it up to and including `up_to_amount`; None in the last. One price at least."""

    up_to_amount: Decimal | None
    unit_price: Decimal | None = None
    flat_price: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Graduated:
    """Each unit at the price of the tier that it falls into."""

    tiers: tuple[Tier, ...]
    type: Literal["graduated"] = "graduated"


@dataclass(frozen=True, slots=True)
class Volume:
    """All units at the price of the tier that the whole quantity falls into."""

    tiers: tuple[Tier, ...]
    type: Literal["volume"] = "volume"


Price = Free | Flat | PerUnit | Package | Graduated | Volume


@dataclass(frozen=True, slots=True)
class Entitlement:
    """`metered`: how much of the feature may be used in a period; `boolean`: that it may be used at all.

    `usage_period` is when the allowance begins anew; None: with each billing period.
    """

    type: Literal["metered", "boolean"]
    limit: int = 0
    is_soft_limit: bool = False
    usage_period: Duration | None = None


@dataclass(frozen=True, slots=True)
class RateCard:
    """One line of a plan. With a feature, its key is the feature's.

    `one_time`: charged once, when the phase begins. `free_units` are deducted from what was used (`discounts.usage`),
    `discount_percent` from what they cost. Amounts are in the plan's currency.
    """

    key: str
    name: str
    price: Price
    feature: str = ""
    one_time: bool = False
    payment_term: Literal["in_advance", "in_arrears"] = "in_arrears"
    minimum_amount: Decimal | None = None
    maximum_amount: Decimal | None = None
    discount_percent: Decimal | None = None
    free_units: Decimal | None = None
    entitlement: Entitlement | None = None
    description: str = ""


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of a subscription with rate cards of its own, such as a trial. The last has no `duration`."""

    key: str
    name: str
    rate_cards: tuple[RateCard, ...]
    duration: Duration | None = None
    description: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What somebody subscribes to. All its rate cards that recur do so with `billing_cadence`."""

    key: str
    name: str
    currency: str
    billing_cadence: Duration
    phases: tuple[Phase, ...]
    pro_rating_enabled: bool = True
    description: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A plan with the features and meters that it is rated by: a subscription keeps them as they were when it began."""

    plan: Plan
    features: Mapping[str, Feature]
    meters: Mapping[str, Meter]

    def to_json(self) -> str:
        return _snapshots().dump_json(self).decode()

    @classmethod
    def from_json(cls, text: str) -> Snapshot:
        return cast("Snapshot", _snapshots().validate_json(text))


@cache
def _snapshots() -> TypeAdapter[Any]:
    """Made when it is needed: most commands need none, and it takes as long as all else here."""
    return TypeAdapter(Snapshot)


@dataclass(frozen=True, slots=True)
class Catalog:
    """The whole file, each kind by its keys. `subscriptions` says which tenants are to be on which plans."""

    meters: Mapping[str, Meter]
    features: Mapping[str, Feature]
    plans: Mapping[str, Plan]
    subscriptions: Mapping[str, str]

    def snapshot(self, plan: str) -> Snapshot:
        """Raises `KeyError`."""
        cards = [card for phase in self.plans[plan].phases for card in phase.rate_cards]
        features = {card.feature: self.features[card.feature] for card in cards if card.feature}
        meters = {one.meter: self.meters[one.meter] for one in features.values() if one.meter}
        return Snapshot(self.plans[plan], features, meters)
