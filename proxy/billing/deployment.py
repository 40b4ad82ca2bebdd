"""What an engine has, what it lacks of the catalog, and the steps from the one to the other. Nothing is changed here.

Meters come first, then features, which are of meters, then plans, which are of features. A plan that was published is
never changed: it gets another version, and publishing that archives the one before. Subscriptions keep theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from proxy.billing.catalog import Catalog, Feature, Meter, Plan
from proxy.billing.drift import METER_FIXED, METER_MAY_CHANGE, PLAN_FIXED, PLAN_MAY_CHANGE, drift, feature_drift
from proxy.billing.mapping import feature_body, is_ours, meter_body, meter_update, plan_body
from proxy.billing.openmeter import Document, OpenMeter
from proxy.errors import EngineUnreadable


class Action(StrEnum):
    CREATE = "create"
    UPDATE = "update"
    NEW_VERSION = "new version"
    PUBLISH = "publish"
    ARCHIVE = "archive"
    DELETE = "delete"


class Kind(StrEnum):
    METER = "meter"
    FEATURE = "feature"
    PLAN = "plan"


@dataclass(frozen=True, slots=True)
class Step:
    """One change, which is one call. `id` is the engine's, empty of what is yet to be created; `why` is for people."""

    action: Action
    kind: Kind
    key: str
    id: str = ""
    why: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.action} {self.kind} {self.key}"


@dataclass(frozen=True, slots=True)
class Blocked:
    """What no step leads to, and what to do about it."""

    kind: Kind
    key: str
    rule: str
    fix: str

    def __str__(self) -> str:
        return f"{self.kind} {self.key}: {self.rule}, fix: {self.fix}"


@dataclass(frozen=True, slots=True)
class Found:
    """What an engine has: meters and features by their keys, all versions of plans, those of each the oldest first."""

    meters: Mapping[str, Document]
    features: Mapping[str, Document]
    plans: Mapping[str, list[Document]]

    def ids(self, kind: Kind) -> dict[str, str]:
        """The engine's ids of meters or features, by their keys."""
        return {key: one["id"] for key, one in (self.meters if kind is Kind.METER else self.features).items()}

    def plan(self, key: str, status: str) -> Document | None:
        """The newest version of a plan that is a draft, active, archived or scheduled."""
        return next((one for one in reversed(self.plans.get(key, [])) if one.get("status") == status), None)


@dataclass(slots=True)
class Deployment:
    """The steps in the order in which they can be taken; what stands in the way; what the catalog has no longer."""

    steps: list[Step] = field(default_factory=list)
    blocked: list[Blocked] = field(default_factory=list)
    #: Created from an earlier catalog, and left alone.
    left: list[Step] = field(default_factory=list)


async def read(engine: OpenMeter) -> Found:
    """Raises `EngineError`."""
    meters, features, plans = [
        [one async for one in engine.by_number(path) if not one.get("deleted_at")]
        for path in ("/meters", "/features", "/plans")
    ]
    for one in (*meters, *features, *plans):
        _check(engine, one)
    versions: dict[str, list[Document]] = {}
    for one in sorted(plans, key=lambda plan: int(plan.get("version", 1))):
        versions.setdefault(one["key"], []).append(one)
    return Found({one["key"]: one for one in meters}, {one["key"]: one for one in features}, versions)


def deployment(catalog: Catalog, found: Found, *, prune: bool = False) -> Deployment:
    """What is to be done. With `prune`, what was created from an earlier catalog goes."""
    done = Deployment()
    for meter in catalog.meters.values():
        _add(done, _meter(meter, found))
    for feature in catalog.features.values():
        _add(done, _feature(feature, found))
    for plan in catalog.plans.values():
        _add(done, _plan(plan, found))
    (done.steps if prune else done.left).extend(_surplus(catalog, found))
    return done


def _meter(meter: Meter, found: Found) -> Iterator[Step | Blocked]:
    known = found.meters.get(meter.key)
    if known is None:
        yield Step(Action.CREATE, Kind.METER, meter.key)
        return
    body = meter_body(meter)
    if fixed := drift(body, known, METER_FIXED):
        fix = "give the meter another key, and its features with it (an engine reads all events for a new meter)"
        yield Blocked(Kind.METER, meter.key, f"the engine never changes this: {'; '.join(fixed)}", fix)
    elif why := drift(meter_update(meter, known), known, METER_MAY_CHANGE):
        yield Step(Action.UPDATE, Kind.METER, meter.key, known["id"], why)


def _feature(feature: Feature, found: Found) -> Iterator[Step | Blocked]:
    known = found.features.get(feature.key)
    if known is None:
        yield Step(Action.CREATE, Kind.FEATURE, feature.key)
        return
    # A meter that is yet to be created can be no feature's that is there: its key tells it as well as an id.
    ids = {key: key for key in [feature.meter] if key} | found.ids(Kind.METER)
    keys = {one: key for key, one in ids.items()}
    if why := feature_drift(feature_body(feature, ids), known, keys):
        fix = "give the feature another key, and its rate cards with it"
        yield Blocked(Kind.FEATURE, feature.key, f"the engine never changes this: {'; '.join(why)}", fix)


def _plan(plan: Plan, found: Found) -> Iterator[Step | Blocked]:
    body = plan_body(plan, _feature_ids(plan, found))
    active, draft = found.plan(plan.key, "active"), found.plan(plan.key, "draft")
    why = drift(body, active, PLAN_FIXED + PLAN_MAY_CHANGE) if active else ()
    if active and not why:
        if draft and is_ours(draft):
            yield Step(Action.DELETE, Kind.PLAN, plan.key, draft["id"], ("a draft that was given up",))
        return
    if draft is None:
        yield Step(Action.NEW_VERSION if active else Action.CREATE, Kind.PLAN, plan.key, why=why)
        yield Step(Action.PUBLISH, Kind.PLAN, plan.key)
        return
    fixed, changed = drift(body, draft, PLAN_FIXED), drift(body, draft, PLAN_MAY_CHANGE)
    if (fixed or changed) and not is_ours(draft):
        rule = f"somebody has a draft of it: {'; '.join(fixed + changed)}"
        yield Blocked(Kind.PLAN, plan.key, rule, "publish or delete that draft at the engine")
        return
    if fixed:
        yield Step(Action.DELETE, Kind.PLAN, plan.key, draft["id"], fixed)
        yield Step(Action.NEW_VERSION if active else Action.CREATE, Kind.PLAN, plan.key, why=why)
        yield Step(Action.PUBLISH, Kind.PLAN, plan.key)
        return
    if changed:
        yield Step(Action.UPDATE, Kind.PLAN, plan.key, draft["id"], changed)
    yield Step(Action.PUBLISH, Kind.PLAN, plan.key, draft["id"], why)


def _feature_ids(plan: Plan, found: Found) -> dict[str, str]:
    """A feature that is yet to be created has its key for an id: none that is there has that one."""
    wanted = {card.feature for phase in plan.phases for card in phase.rate_cards if card.feature}
    return {key: key for key in wanted} | found.ids(Kind.FEATURE)


def _surplus(catalog: Catalog, found: Found) -> Iterator[Step]:
    """What we created and the catalog has no longer. Plans first: what they need cannot go before them."""
    why = ("the catalog has it no longer",)
    for key in sorted(found.plans.keys() - catalog.plans.keys()):
        draft, active = found.plan(key, "draft"), found.plan(key, "active")
        if draft is not None and is_ours(draft):
            yield Step(Action.DELETE, Kind.PLAN, key, draft["id"], why)
        if active is not None and is_ours(active):
            yield Step(Action.ARCHIVE, Kind.PLAN, key, active["id"], why)
    for one in _no_longer(found.features, catalog.features):
        yield Step(Action.ARCHIVE, Kind.FEATURE, one["key"], one["id"], why)
    for one in _no_longer(found.meters, catalog.meters):
        yield Step(Action.DELETE, Kind.METER, one["key"], one["id"], why)


def _no_longer(has: Mapping[str, Document], wanted: Mapping[str, object]) -> list[Document]:
    return [one for key, one in sorted(has.items()) if key not in wanted and is_ours(one)]


def _add(done: Deployment, found: Iterator[Step | Blocked]) -> None:
    for one in found:
        if isinstance(one, Step):
            done.steps.append(one)
        else:
            done.blocked.append(one)


def _check(engine: OpenMeter, one: Document) -> None:
    """Ids become parts of paths."""
    known, key = one.get("id"), one.get("key")
    if not isinstance(known, str) or not known.isalnum() or not isinstance(key, str):
        raise EngineUnreadable(f"{engine.url}: it lists something without an id and a key")
