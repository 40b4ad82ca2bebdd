"""A ledger on disk with events that were delivered long ago, and an engine that has them."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from proxy.billing.comparison import Finding, Kind, Terms
from proxy.billing.meters import Difference
from proxy.billing.openmeter import OpenMeter
from proxy.billing.reconcile import Reconciliation, Repair
from proxy.model import Settlement
from proxy.store import audit, outbox
from proxy.store.audit import Recorded
from proxy.store.database import Database, begin
from proxy.store.ledger import record
from tests.delivery.ledger import NOW_MS

HOUR_MS = 3_600_000
#: Hours that are whole, and over.
FROM_S = NOW_MS // HOUR_MS * 3_600
TO_S = FROM_S + 4 * 3_600
VISIBLE_MS = TO_S * 1_000


class Books:
    """The ledger, and what a reconciliation needs of it."""

    def __init__(self, folder: Path) -> None:
        self.database = Database(f"sqlite:///{folder}/tollgate.db")
        self.database.create()

    def record(self, settlements: Iterable[Settlement], *, delivered_ms: int | None = NOW_MS + 60_000) -> None:
        """Record them; accepted then, or pending."""
        written = list(settlements)
        with closing(self.database.connect()) as connection, begin(connection):
            record(connection, written)
            if delivered_ms is not None:
                outbox.accept(connection, [one.id for one in written], delivered_ms)

    def between(self, from_ms: int, to_ms: int) -> Iterable[Recorded]:
        with closing(self.database.connect(read_only=True)) as connection:
            yield from audit.between(connection, from_ms, to_ms)

    def recorded(self, request_id: str) -> Recorded | None:
        with closing(self.database.connect(read_only=True)) as connection:
            return audit.recorded(connection, request_id)

    def all(self) -> list[Recorded]:
        return [*self.between(0, 2**53)]


class Run:
    """One reconciliation that was walked to its end."""

    def __init__(self, run: Reconciliation, found: list[Finding | Difference]) -> None:
        self.run = run
        self.tally = run.tally
        self.findings = [one for one in found if isinstance(one, Finding)]
        self.differences = [one for one in found if isinstance(one, Difference)]

    def ids(self, kind: Kind) -> list[str]:
        return sorted(one.id for one in self.findings if one.kind is kind)

    def words(self, kind: Kind) -> list[str]:
        return [one.words for one in self.findings if one.kind is kind]


async def reconciled(
    books: Books,
    url: str | OpenMeter,
    *,
    source: str = "tollgate",
    profile: str = "llm_token_usage",
    from_s: int = FROM_S,
    to_s: int = TO_S,
    visible_ms: int = VISIBLE_MS,
    repair: Repair | None = None,
) -> Run:
    engine = url if isinstance(url, OpenMeter) else OpenMeter(url, random=lambda: 0.0)
    terms = Terms(source, profile, visible_ms)
    try:
        run = Reconciliation(books, engine, terms, from_s, to_s, repair=repair)
        return Run(run, [one async for one in run.findings()])
    finally:
        await engine.close()
