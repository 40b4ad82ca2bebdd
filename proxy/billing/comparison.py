"""What the ledger says was delivered beside what the engine has, one second of event time at a time. No I/O."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_DOWN, Decimal
from enum import StrEnum
from typing import Any

from proxy.billing.meters import decimal
from proxy.billing.stored import Stored
from proxy.delivery.cloudevents import events_of
from proxy.model import EventState
from proxy.store.audit import Recorded

#: An event that is stored later than this after its time may miss its invoice: OpenMeter collects for an hour after a
#: period ends (`collection.interval`).
LATE_MS = 3_600_000

#: Different complaints that are counted each for itself: they may quote values.
_COMPLAINTS_MAX = 1_000
_OTHER_COMPLAINTS = "other complaints"
#: What meters add up and group by. The rest of `data` may have been written by another version of this program.
_NUMBERS = ("total_tokens", "prompt_tokens", "completion_tokens", "tokens")
_NAMES = ("model", "type")

Event = dict[str, Any]


class Kind(StrEnum):
    """What can be wrong with an event."""

    MISSING = "missing"  # accepted here, and not there, also when asked for by its id
    DOUBLED = "doubled"  # there more than once, and counted as often
    REFUSED = "refused"  # there, and no meter or no customer takes it
    LATE = "late"  # there, and stored so late that its invoice may have been made without it
    DIFFERENT = "different"  # there, and says something else than the ledger
    UNKNOWN = "unknown"  # there with our source, and not in the ledger


@dataclass(frozen=True, slots=True)
class Finding:
    """One event that something is wrong with, and what. `time_ms` is the event's, unix milliseconds."""

    kind: Kind
    id: str
    subject: str
    type: str
    time_ms: int
    words: str


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for a whole run. What was delivered after `visible_ms` may not be visible yet."""

    source: str
    profile: str
    visible_ms: int


@dataclass(frozen=True, slots=True)
class Absent:
    """Events of one accepted request that the engine did not list. `whole` where it listed none of them."""

    recorded: Recorded
    events: tuple[Event, ...]
    whole: bool


@dataclass(slots=True)
class Tally:
    """The counts of a run, in events; `requests` aside."""

    requests: int = 0
    recorded: Counter[EventState] = field(default_factory=Counter)
    found: Counter[EventState] = field(default_factory=Counter)
    findings: Counter[Kind] = field(default_factory=Counter)
    complaints: Counter[str] = field(default_factory=Counter)
    too_recent: int = 0

    @property
    def due(self) -> int:
        """Accepted events that must be visible by now."""
        return self.recorded[EventState.ACCEPTED] - self.too_recent

    @property
    def capture_rate(self) -> Decimal | None:
        """Per cent of what is due that was found, never rounded up; None where nothing is due."""
        if not self.due:
            return None
        rate = Decimal(100 * self.found[EventState.ACCEPTED]) / self.due
        return rate.quantize(Decimal("0.01"), ROUND_DOWN)

    def complain(self, complaints: Iterable[str]) -> None:
        for words in complaints:
            known = words in self.complaints or len(self.complaints) < _COMPLAINTS_MAX
            self.complaints[words if known else _OTHER_COMPLAINTS] += 1


@dataclass(frozen=True, slots=True)
class Compared:
    """One second, compared. `counted` are the events that meters should have added up by now; where `unsure`, others
    may be added while this runs. `absent` and `strangers` are to be asked for before anything is said of them.
    """

    findings: list[Finding]
    counted: list[Event]
    absent: list[Absent]
    strangers: list[Stored]
    unsure: bool


def compare(terms: Terms, recorded: Sequence[Recorded], stored: Sequence[Stored], tally: Tally) -> Compared:
    """Compare what both sides have of one second, and count it."""
    copies: defaultdict[str, list[Stored]] = defaultdict(list)
    for row in stored:
        copies[row.id].append(row)
    findings: list[Finding] = []
    counted: list[Event] = []
    absent: list[Absent] = []
    unsure = False
    for one in recorded:
        tally.requests += 1
        events = events_of(one.settlement, terms.source, terms.profile)
        missed = []
        for event in events:
            there = copies.pop(event["id"], [])
            tally.recorded[one.state] += 1
            if there:
                tally.found[one.state] += 1
                found = list(_judge(event, one.settlement.time_ms, there))
                if any(finding.kind is Kind.REFUSED for finding in found):
                    tally.complain({words for row in there for words in row.complaints})
                findings += found
            elif one.state is EventState.ACCEPTED and (one.delivered_ms or 0) <= terms.visible_ms:
                missed.append(event)
            else:
                tally.too_recent += one.state is EventState.ACCEPTED
                unsure |= one.state in (EventState.ACCEPTED, EventState.PENDING)
                continue
            counted.append(event)
        if missed:
            absent.append(Absent(one, tuple(missed), whole=len(missed) == len(events)))
    strangers = [row for rows in copies.values() for row in rows]
    return Compared(findings, counted, absent, strangers, unsure)


def request_of(event_id: str) -> str:
    """The request that an event is of, in any profile."""
    return event_id.partition(":")[0]


def remedy(complaint: str, profile: str) -> str:
    """What to do about a complaint, which is in OpenMeter's words."""
    value = "$.total_tokens" if profile == "llm_token_usage" else "$.tokens"
    if "no meter found" in complaint:
        return f"create a meter for event type {profile}: aggregation sum, value_property {value}; old events count too"
    if "no customer found" in complaint:
        return (
            "create a customer with this subject among its usage_attribution.subject_keys; until then nobody is billed"
        )
    if "value" in complaint:
        return f"the meter's value_property is not in these events, and cannot be changed: make one that sums {value}"
    return ""


def _judge(event: Event, time_ms: int, there: Sequence[Stored]) -> Iterator[Finding]:
    """What is wrong with an event that is there, perhaps more than once."""
    if len(there) > 1:
        yield finding_of(Kind.DOUBLED, event, time_ms, f"stored {len(there)} times")
    differences = sorted({words for row in there for words in _differences(event, time_ms, row)})
    if differences:
        yield finding_of(Kind.DIFFERENT, event, time_ms, "; ".join(differences))
    late_ms = min(row.stored_ms for row in there) - time_ms
    if late_ms > LATE_MS:
        yield finding_of(Kind.LATE, event, time_ms, f"stored {late_ms // 60_000} min after its time")
    complaints = dict.fromkeys(words for row in there for words in row.complaints)
    if complaints:
        yield finding_of(Kind.REFUSED, event, time_ms, "; ".join(complaints))


def finding_of(kind: Kind, event: Event, time_ms: int, words: str) -> Finding:
    return Finding(kind, event["id"], event["subject"], event["type"], time_ms, words)


def _differences(event: Event, time_ms: int, row: Stored) -> Iterator[str]:
    """How a row differs from the event as it was sent, in what it is billed by."""
    if row.type != event["type"]:
        yield f"type {row.type!r}, not {event['type']!r}"
    if row.subject != event["subject"]:
        yield f"subject {row.subject!r}, not {event['subject']!r}"
    if row.time_s != time_ms // 1000:
        yield "another time"
    ours = event["data"]
    for key in _NAMES:
        if key in ours and row.data.get(key) != ours[key]:
            yield f"{key} {row.data.get(key)!r}, not {ours[key]!r}"
    for key in _NUMBERS:
        if key in ours and not _same(row.data.get(key), ours[key]):
            yield f"{key} {row.data.get(key)!r}, not {ours[key]!r}"


def _same(theirs: object, ours: object) -> bool:
    """Whether two spellings are of one number. Theirs went through float64, which keeps integers up to 2**53."""
    try:
        return decimal(theirs) == decimal(ours) or float(decimal(theirs)) == float(decimal(ours))
    except ValueError:
        return False
