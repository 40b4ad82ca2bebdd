"""A set-up in which nothing is wrong, to plant mistakes in."""

from __future__ import annotations

from typing import Any

from proxy.billing.catalog import Catalog
from proxy.billing.enrolment import Enrolment
from proxy.billing.evidence import Books, Evidence, gather
from proxy.billing.openmeter import OpenMeter
from tests.billing.selling import Selling
from tests.billing.shop import TEXT, catalog, no_wait, stocked

NOW_MS = 1_776_076_200_000
START_MS = NOW_MS - 3 * 3_600_000
CATALOG: Catalog = catalog(TEXT + "\n[subscriptions]\nuser-001 = 'starter'\n")


def books(**changes: Any) -> Books:
    """A tenant on a plan, that was used since, and whose events were all taken."""
    values: dict[str, Any] = {
        "now_ms": NOW_MS,
        "source": "tollgate",
        "profile": "llm_token_usage",
        "subjects": ("user-001",),
        "plans": {"user-001": "starter"},
        "first_ms": {"user-001": START_MS + 500},
        "models": ("gpt-4o-mini-2024-07-18", "gpt-4o"),
        "waiting_ms": NOW_MS - 60_000,
    }
    return Books(**values | changes)


def event(number: int, *errors: str) -> dict[str, Any]:
    """One as it is read back."""
    stamps = {"ingested_at": "2026-04-13T10:00:02Z", "stored_at": "2026-04-13T10:00:03Z"}
    told = {"specversion": "1.0", "id": f"req_{number}", "source": "tollgate", "type": "llm_token_usage"}
    known = {"event": told | {"subject": "user-001", "time": "2026-04-13T10:00:00Z"}} | stamps
    return known | ({"validation_errors": [{"code": "x", "message": one} for one in errors]} if errors else {})


async def set_up(selling: Selling) -> None:
    """All that `apply` and `onboard` do at an engine."""
    await stocked(selling)
    engine = OpenMeter(selling.url)
    await Enrolment(engine).enrol("user-001", "starter", anchor_ms=START_MS)
    await engine.close()
    selling.events += [event(number) for number in range(3)]


async def evidence(url: str, **changes: Any) -> Evidence:
    """What is gathered."""
    engine = OpenMeter(url, sleep=no_wait, tries=2)
    try:
        return await gather(engine, books(**changes))
    finally:
        await engine.close()
