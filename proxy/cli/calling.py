"""How commands carry operations out (`proxy.admin`): on the local store, or by a server's admin API (`--server`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, TypeVar

import typer
from pydantic import ValidationError

from proxy import settings
from proxy.admin.operation import PAGE_MAX, Answer, Asked, Context, Operation, Page, Paged
from proxy.cli.instants import now_ms
from proxy.cli.opening import open_store, reading
from proxy.cli.remote import Remote

I = TypeVar("I", bound=Asked)  # noqa: E741 (in and out, as in `proxy.admin.operation`)
O = TypeVar("O", bound=Answer)  # noqa: E741
L = TypeVar("L", bound=Paged)
T = TypeVar("T", bound=Answer)


class Backend(Protocol):
    """What carries operations out."""

    def call(self, operation: Operation[I, O], asked: I) -> O:
        """Raises `TollgateError` and `sqlite3.Error`."""

    def close(self) -> None:
        """It is not called any more."""


@dataclass(frozen=True)
class Where:
    """Where the commands of this call are carried out. Nothing is opened before the first of them."""

    server: str | None

    @cached_property
    def backend(self) -> Backend:
        return Local() if self.server is None else Remote(self.server, settings.load().admin_token)

    def close(self) -> None:
        if "backend" in self.__dict__:
            self.backend.close()


class Local:
    """On the store that the settings name."""

    def __init__(self) -> None:
        self._settings, self._database = open_store()

    def call(self, operation: Operation[I, O], asked: I) -> O:
        found = []
        if operation.find is not None:
            with reading(self._database) as connection:
                found.append(operation.find(Context(connection, self._settings, now_ms()), asked))
        opened = self._database.transaction() if operation.writes else reading(self._database)
        with opened as connection:
            return operation.do(Context(connection, self._settings, now_ms()), asked, *found)

    def close(self) -> None:
        pass  # nothing stays open


def call(ctx: typer.Context, operation: Operation[I, O], asked: I) -> O:
    """Carry an operation out. Raises `TollgateError` and `sqlite3.Error`."""
    where: Where = ctx.obj
    try:
        return where.backend.call(operation, asked)
    except ValidationError as error:  # of an answer: a fault of ours, and no slip of whoever asks
        raise RuntimeError(f"{operation.name} answers what it should not") from error


def listed(ctx: typer.Context, operation: Operation[L, Page[T]], asked: L, limit: int | None = None) -> list[T]:
    """The whole of a list, or its first `limit`, a page at a time."""
    return [*_listed(ctx, operation, asked, limit)]


def _listed(ctx: typer.Context, operation: Operation[L, Page[T]], asked: L, limit: int | None) -> Iterator[T]:
    after: str | None = ""
    left = limit
    while after is not None and left != 0:
        size = PAGE_MAX if left is None else min(left, PAGE_MAX)
        page = call(ctx, operation, asked.model_copy(update={"limit": size, "after": after}))
        yield from page.data
        after = page.next
        left = None if left is None else left - len(page.data)
