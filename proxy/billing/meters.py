"""What the engine's meters make of our events: their sums per subject, model and hour, beside the ledger's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from proxy.billing.openmeter import Document, OpenMeter
from proxy.billing.stored import rfc3339, unix_ms
from proxy.errors import EngineUnreadable

HOUR_S = 3600

_METERS = "/meters"
_MODEL_PATH = "$.model"
_SUBJECT = "subject"

#: Subject and model; the model is empty where the meter does not tell models apart.
Group = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Meter:
    """A meter that adds up our events. `value_key` is the key of `data` that it sums; empty where it counts events.

    `model_dimension` is its name for the model, if it has one; `from_s` is the first unix second that it counts.
    """

    id: str
    key: str
    value_key: str
    model_dimension: str
    from_s: int

    def group_of(self, event: dict[str, Any]) -> Group:
        return event["subject"], str(event["data"].get("model", "")) if self.model_dimension else ""

    def value_of(self, event: dict[str, Any]) -> Decimal:
        """What the event adds. Raises `ValueError` where it has no such value."""
        return Decimal(1) if not self.value_key else decimal(event["data"].get(self.value_key))


@dataclass(frozen=True, slots=True)
class Difference:
    """An hour in which a meter's sum is not the ledger's."""

    meter: str
    hour_s: int
    subject: str
    model: str
    ledger: Decimal
    engine: Decimal


class Sums:
    """The ledger's sums of the hour that is being walked, one for each meter and group."""

    def __init__(self, meters: list[Meter]) -> None:
        self.meters = meters
        self._hour_s = 0
        self._sums: dict[str, defaultdict[Group, Decimal]] = {}
        self._usable = True

    def begin(self, hour_s: int) -> None:
        self._hour_s = hour_s
        self._sums = {meter.id: defaultdict(Decimal) for meter in self.meters}
        self._usable = True

    def add(self, event: dict[str, Any]) -> None:
        for meter in self.meters:
            self._sums[meter.id][meter.group_of(event)] += meter.value_of(event)

    def spoil(self) -> None:
        """Something of this hour may or may not be visible yet: it cannot be compared."""
        self._usable = False

    async def differences(self, engine: OpenMeter) -> list[Difference] | None:
        """Where the meters' sums of this hour differ; None where they cannot be compared."""
        comparable = [meter for meter in self.meters if meter.from_s <= self._hour_s]
        if not (self._usable and comparable):
            return None
        return [one for meter in comparable for one in self._compare(meter, await _asked(engine, meter, self._hour_s))]

    def _compare(self, meter: Meter, theirs: dict[Group, Decimal]) -> Iterator[Difference]:
        ours = self._sums[meter.id]
        for group in sorted(ours.keys() | theirs.keys()):
            ledger, engine = ours[group], theirs.get(group, Decimal(0))
            if ledger != engine:
                yield Difference(meter.key, self._hour_s, *group, ledger, engine)


async def meters_of(engine: OpenMeter, event: dict[str, Any]) -> list[Meter]:
    """The meters that sum a value of events such as this one, or count them."""
    return [
        meter
        async for item in engine.by_number(_METERS)
        if item.get("event_type") == event["type"] and (meter := _read(item, event)) is not None
    ]


def decimal(value: object) -> Decimal:
    """A number as the API writes it: text, sometimes not. Raises `ValueError`."""
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        try:
            number = Decimal(str(value))
        except InvalidOperation:
            pass
        else:
            if number.is_finite():
                return number
    raise ValueError(f"{str(value)[:100]!r} is no number")


def _read(item: Document, event: dict[str, Any]) -> Meter | None:
    """The meter, unless what it does with such events is not adding up."""
    path, aggregation = item.get("value_property"), item.get("aggregation")
    value_key = path.removeprefix("$.") if isinstance(path, str) and aggregation == "sum" else ""
    if not value_key and aggregation != "count":
        return None
    dimensions = item.get("dimensions") or {}
    model = next((name for name, found in dimensions.items() if found == _MODEL_PATH), "")
    started = item.get("events_from")
    # The first whole hour that it counts.
    from_s = 0 if started is None else -(-unix_ms(started) // (HOUR_S * 1000)) * HOUR_S
    meter = Meter(str(item.get("id")), str(item.get("key")), value_key, model, from_s)
    try:
        meter.value_of(event)
    except ValueError:
        return None  # it sums what our events do not have
    return meter


async def _asked(engine: OpenMeter, meter: Meter, hour_s: int) -> dict[Group, Decimal]:
    question: Document = {
        "from": rfc3339(hour_s),
        "to": rfc3339(hour_s + HOUR_S),
        "granularity": "PT1H",
        "group_by_dimensions": [_SUBJECT, *([meter.model_dimension] if meter.model_dimension else [])],
    }
    sums: dict[Group, Decimal] = {}
    for row in engine.items(await engine.query(f"{_METERS}/{meter.id}/query", question)):
        names = row.get("dimensions")
        if not isinstance(names, dict):
            raise EngineUnreadable(f"meter {meter.key}: a row of its sums has no dimensions")
        group = str(names.get(_SUBJECT, "")), str(names.get(meter.model_dimension) or "")
        try:
            sums[group] = sums.get(group, Decimal(0)) + decimal(row.get("value"))
        except ValueError as error:
            raise EngineUnreadable(f"meter {meter.key}: {error}") from None
    return sums
