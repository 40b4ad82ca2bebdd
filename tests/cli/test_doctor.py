from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxy.billing.evidence import Mistake
from proxy.cli.instants import now_ms
from proxy.store import outbox
from tests.billing.selling import Selling
from tests.cli.conftest import Command, settlement
from tests.documents import section


@pytest.fixture
def selling(tollgate: Command, monkeypatch: pytest.MonkeyPatch) -> Iterator[Selling]:
    """A tenant that was onboarded and then used, and an engine that took its events."""
    with Selling().running() as one:
        monkeypatch.setenv("KONNECT_API_URL", one.url)
        tollgate.done("billing", "apply")
        tollgate.done("billing", "onboard", "user-001", "--plan", "starter")
        use(tollgate, "req_1", now_ms())
        yield one
    assert one.faults == []


def use(tollgate: Command, event_id: str, time_ms: int) -> None:
    tollgate.record(settlement(event_id, subject="user-001", time_ms=time_ms))
    with tollgate.database.transaction() as connection:
        outbox.accept(connection, [event_id], now_ms())


def test_nothing_is_found_where_nothing_is_wrong(tollgate: Command, selling: Selling) -> None:
    assert tollgate.done("billing", "doctor") == (
        f"Nothing is wrong between the ledger, the catalog and {selling.url}.\n"
    )
    assert tollgate.json("billing", "doctor") == {"engine": selling.url, "findings": []}


def test_what_is_found_has_a_remedy_that_helps(tollgate: Command, selling: Selling) -> None:
    selling.customers.clear()
    selling.subscriptions.clear()
    result = tollgate("billing", "doctor")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "no_customer: tenant user-001 is no customer: its usage is billed to nobody",
        "  remedy: tollgate billing onboard user-001 --plan starter",
    ]
    tollgate.done(*result.stdout.rstrip().rpartition("tollgate ")[2].split())
    assert selling.customers
    report = tollgate("billing", "doctor", "--json")
    assert "no_customer" not in report.stdout


def test_what_the_ledger_knows_is_compared(tollgate: Command, selling: Selling) -> None:
    use(tollgate, "req_0", now_ms() - 3_600_000)
    tollgate.record(settlement("req_2", subject="guest", time_ms=now_ms() - 3_700_000))
    result = tollgate("billing", "doctor")
    codes = [line.partition(":")[0] for line in result.stdout.splitlines() if not line.startswith(" ")]
    assert codes == ["no_customer", "subscription_late", "outbox_late"]


def test_a_disabled_tenant_is_left_alone(tollgate: Command, selling: Selling) -> None:
    tollgate.done("tenants", "create", "gone")
    tollgate.done("keys", "create", "gone")
    assert "tenant gone is no customer" in tollgate("billing", "doctor").stdout
    tollgate.done("tenants", "disable", "gone")
    tollgate.done("billing", "doctor")


@pytest.mark.parametrize("mistake", Mistake)
def test_every_mistake_is_documented(mistake: Mistake) -> None:
    assert f"| `{mistake}` |" in section("docs/billing.md", "Doctor")


def test_without_an_engine_there_is_nothing_to_look_at(tollgate: Command) -> None:
    assert "KONNECT_API_URL" in tollgate.refused("billing", "doctor", code=2)
