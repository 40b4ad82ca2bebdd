"""What an operation is: a function, and all that a server, a client and a description need to know of it."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, Field

from proxy.limits import Calendar
from proxy.model import Settlement
from proxy.settings import Settings
from proxy.store.usage import Bounds

#: What one page may hold, and holds where nobody says.
PAGE_MAX = 1_000
PAGE_DEFAULT = 100
NAME_CHARS_MAX = 256
#: No id is longer.
ID_CHARS_MAX = 256

_IN_PATH = re.compile(r"\{(\w+)\}")


class Asked(BaseModel):
    """What an operation is asked: its path's parts, and its query (GET, DELETE) or the members of its body."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        populate_by_name=True,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
        defer_build=True,
    )


class Answer(BaseModel):
    """What an operation answers. A server of a newer version may say more, which is passed on."""

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True, defer_build=True)

    def to_keep(self) -> dict[str, Any]:
        """As it may be stored, for a request that is repeated: without what is shown once."""
        return self.json_object()

    def json_object(self) -> dict[str, Any]:
        """As it is sent, and printed: with all that was said, and nothing else."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


I = TypeVar("I", bound=Asked)  # noqa: E741 (in and out)
O = TypeVar("O", bound=Answer)  # noqa: E741
T = TypeVar("T", bound=Answer)
S = TypeVar("S")
P = ParamSpec("P")


class Paged(Asked):
    """A part of a list."""

    limit: int = Field(PAGE_DEFAULT, ge=1, le=PAGE_MAX)
    """How many at most."""
    after: str = Field("", max_length=ID_CHARS_MAX)
    """The `next` of the page before; the first page without it. What is added meanwhile moves nothing."""


class Page(Answer, Generic[T]):
    """A part of a list. `next` is what to ask with as `after`; null on the last page."""

    data: list[T]
    next: str | None


def page_of(found: Sequence[S], limit: int, told: Callable[[S], T], cursor: Callable[[S], str]) -> Page[T]:
    """A page, where one more was looked for than it may hold."""
    shown = found[:limit]
    return Page(data=[told(one) for one in shown], next=cursor(shown[-1]) if len(found) > limit else None)


@dataclass(frozen=True, slots=True)
class Context:
    """What operations work with. `bounds` is what a report may take; None: whatever it needs.

    `recorded` takes the settlements that an operation has recorded: who counts them in this process must be told.
    """

    connection: sqlite3.Connection
    settings: Settings
    now_ms: int
    bounds: Bounds | None = None
    recorded: list[Settlement] = field(default_factory=list)

    @property
    def calendar(self) -> Calendar:
        return Calendar.of(self.settings.limits.time_zone)


#: Does some work in a transaction, and takes it back itself.
Rehearse = Callable[[Callable[[Context], Any]], Awaitable[Any]]


@dataclass(frozen=True)
class Operation(Generic[I, O]):
    """One thing that an operator may do. `path` has `{}` around those members of what it `takes` that stand in it.

    `do` works in the transaction of a context's connection, and raises `StoreError`. What `find` finds before, without
    keeping others from writing, is given to it, and so is what others over the network are asked `ahead` (by a server
    alone; raises `EngineError`). `csv` writes the answer as CSV.
    """

    name: str
    method: str
    path: str
    takes: type[I]
    gives: type[O]
    do: Callable[..., O]
    find: Callable[[Context, I], Any] | None = None
    ahead: Callable[[Settings, I, Rehearse], Awaitable[Any]] | None = None
    status: int = 200
    csv: Callable[[O], str] | None = None

    @property
    def writes(self) -> bool:
        return self.method != "GET"

    @property
    def in_query(self) -> bool:
        """Whether what its path lacks stands in the query, and not in a body."""
        return self.method in ("GET", "DELETE")

    @cached_property
    def in_path(self) -> tuple[str, ...]:
        """The names in its path."""
        return tuple(_IN_PATH.findall(self.path))

    @cached_property
    def fields(self) -> dict[str, str]:
        """What it takes, by the names that requests have: the fields of its model."""
        return {field.alias or name: name for name, field in self.takes.model_fields.items()}


def operation(
    method: str,
    path: str,
    *,
    name: str = "",
    takes: type[Any] | None = None,
    status: int = 200,
    find: Callable[[Context, Any], Any] | None = None,
    ahead: Callable[[Settings, Any, Rehearse], Awaitable[Any]] | None = None,
    csv: Callable[[Any], str] | None = None,
) -> Callable[[Callable[Concatenate[Context, I, P], O]], Operation[I, O]]:
    """Make an operation of a function `(context, asked) -> answer`, by its annotations unless they are given."""

    def made(do: Callable[Concatenate[Context, I, P], O]) -> Operation[I, O]:
        hints = get_type_hints(do)
        return Operation(
            *(name or do.__name__, method, path, takes or hints["asked"], hints["return"], do),
            find=find,
            ahead=ahead,
            status=status,
            csv=csv,
        )

    return made
