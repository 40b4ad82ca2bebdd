"""Operations on dead letters: events that the sink refused for good, sent again or given up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from proxy.admin.events import Filters
from proxy.admin.operation import ID_CHARS_MAX, Answer, Context, operation
from proxy.errors import WrongInput
from proxy.model import EventState
from proxy.store import letters
from proxy.store.ledger import EVERY
from proxy.store.letters import PAGE_EVENTS, Letter, Place

#: How long receivers are sure to remember an event that they have taken (OpenMeter's default).
_REMEMBERED_MS = 86_400_000


class Moved(Answer):
    """What was moved, or would be. `next` is what to ask with as `after` for the rest; null where that was all."""

    dry_run: bool
    next: str | None


class Replayed(Moved):
    replayed: int
    older_than_a_day: int
    """Receivers drop repeats for about a day only."""


class Discarded(Moved):
    discarded: int


class MoveLetters(Filters):
    """Which letters are meant: those named by `ids`, `all`, or those that fit every filter. At most a thousand are
    moved at once, the oldest first.
    """

    ids: list[Annotated[str, Field(max_length=ID_CHARS_MAX)]] = Field([], max_length=PAGE_EVENTS)
    """All of them are moved, or none."""
    every: bool = Field(False, alias="all")
    """Every dead letter."""
    dry_run: bool = False
    """Only count them."""
    after: str = Field("", pattern=r"^(\d{1,19}-\d{1,19})?$")
    """The `next` of the answer before."""


class DiscardLetters(MoveLetters):
    reason: str = Field(max_length=2_000)
    """Why; it is kept with the event."""


@dataclass(frozen=True, slots=True)
class Found:
    """A page of letters that are dead, and where the next one begins."""

    letters: list[Letter]
    next: str | None


def find(context: Context, asked: MoveLetters) -> Found:
    """What the filters mean. Raises `WrongInput` unless it is said, in one way, which letters are meant."""
    wanted = asked.wanted
    if (bool(asked.ids) + asked.every + (wanted != EVERY)) != 1:
        raise WrongInput("name the events by their ids, or by filters, or all of them by --all", "ids")
    asked.check(context)
    if asked.ids:
        return Found([], None)
    place = Place(*map(int, asked.after.split("-"))) if asked.after else None
    found, following = letters.page(context.connection, wanted, place)
    return Found(found, None if following is None else f"{following.after_seq}-{following.until_seq}")


@operation("POST", "/admin/events/replay", find=find)
def replay_events(context: Context, asked: MoveLetters, found: Found) -> Replayed:
    """Send dead letters again, with the same ids. A discarded event is replayed by its id alone."""
    states = EventState.DEAD, EventState.DISCARDED
    meant = letters.named(context.connection, asked.ids, *states) if asked.ids else {EventState.DEAD: found.letters}
    moved = sum(
        len(some) if asked.dry_run else letters.replay(context.connection, some, state) for state, some in meant.items()
    )
    old = sum(context.now_ms - one.time_ms > _REMEMBERED_MS for some in meant.values() for one in some)
    return Replayed(replayed=moved, older_than_a_day=old, dry_run=asked.dry_run, next=found.next)


@operation("POST", "/admin/events/discard", find=find)
def discard_events(context: Context, asked: DiscardLetters, found: Found) -> Discarded:
    """Give dead letters up. They stay in the ledger and in its totals, and can be replayed by their ids."""
    reason = asked.reason.strip()
    if not reason:
        raise WrongInput("say why: it is kept with the event", "reason")
    meant = found.letters
    if asked.ids:
        meant = letters.named(context.connection, asked.ids, EventState.DEAD)[EventState.DEAD]
    moved = len(meant) if asked.dry_run else letters.discard(context.connection, meant, reason)
    return Discarded(discarded=moved, dry_run=asked.dry_run, next=found.next)
