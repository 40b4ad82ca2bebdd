"""`tollgate billing connect-stripe`, as it is called and as it answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from proxy.store import payments
from proxy.store.tenants import create_tenant
from tests.billing.collecting import Collecting
from tests.billing.engine import problem
from tests.cli.conftest import Command

KEY = "sk_test_canary1canary2canary3"
COMMAND = ("billing", "connect-stripe")


@pytest.fixture
def engine() -> Iterator[Collecting]:
    """With two customers, one of whom can be charged."""
    engine = Collecting()
    engine.add("user-001", stripe_customer="cus_1", payment_method="pm_1")
    engine.add("acme-inc", subjects=("user-002", "user-003"))
    with engine.running():
        yield engine
    assert engine.faults == []


@pytest.fixture
def connected(tollgate: Command, engine: Collecting, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setenv("KONNECT_API_URL", engine.v3)
    monkeypatch.delenv("STRIPE_API_KEY", raising=False)
    with tollgate.database.transaction() as connection:
        for tenant in ("user-001", "user-002"):
            create_tenant(connection, tenant, now_ms=1)
    return tollgate


def paid_for(tollgate: Command, payer: str) -> list[str]:
    with closing(tollgate.database.connect(read_only=True)) as connection:
        return payments.pays_for(connection, payer)


def installs(engine: Collecting) -> int:
    return len(engine.installed)


def test_it_installs_once_and_says_what_customers_lack(connected: Command, engine: Collecting) -> None:
    done = connected(*COMMAND, env={"STRIPE_API_KEY": KEY})
    assert done.exit_code == 0
    lines = done.output.splitlines()
    assert lines[0] == "Stripe is installed now: account acct_1, test mode, ready."
    rows = [line.split() for line in lines]
    first, second = engine.customers
    assert ["user-001", first.id, "user-001", "Stripe", "cus_1", "pm_1"] in rows
    lacks = ["a", "Stripe", "customer;", "a", "payment", "method,", "unless", "Stripe", "has", "a", "default", "one"]
    assert ["acme-inc", second.id, "user-002", "Stripe", *lacks] in rows
    assert f'PUT {engine.v3}/customers/ID/billing/app-data {{"stripe":{{"customer_id":"cus_…"' in done.output
    assert engine.installed == [{"apiKey": KEY, "name": "Stripe", "createBillingProfile": True}]
    assert KEY.encode() not in connected.bytes_on_disk() + done.output.encode()

    again = connected(*COMMAND)
    assert again.exit_code == 0
    assert again.output.startswith("Stripe is installed already: account acct_1, test mode, ready.")
    assert installs(engine) == 1


def test_who_pays_for_whom_is_noted_by_the_ids_of_both(connected: Command, engine: Collecting) -> None:
    engine.install()
    connected(*COMMAND, "--check")
    first, second = engine.customers
    assert paid_for(connected, "cus_1") == paid_for(connected, first.id) == ["user-001"]
    assert paid_for(connected, second.id) == ["user-002"]


def test_the_key_comes_from_standard_input_and_never_from_an_argument(connected: Command, engine: Collecting) -> None:
    given = connected(*COMMAND, "--key", "sk_live_canary1canary2canary3")
    assert given.exit_code == 2
    assert "others see arguments: put the key into STRIPE_API_KEY, or pipe it and write --key -" in given.stderr
    assert "canary" not in given.output
    assert installs(engine) == 0
    assert connected(*COMMAND, "--key", "-", stdin=f"{KEY}\n").exit_code == 0
    assert engine.installed[0]["apiKey"] == KEY


@pytest.mark.parametrize("key", ["pk_test_canary1canary2canary3", "canary", "sk_test_canary canary"])
def test_what_is_no_secret_key_is_refused_and_not_repeated(connected: Command, engine: Collecting, key: str) -> None:
    refused = connected(*COMMAND, env={"STRIPE_API_KEY": key})
    assert refused.exit_code == 2
    assert refused.stderr.startswith("tollgate: STRIPE_API_KEY: must be a secret key of Stripe's")
    assert "canary" not in refused.output
    assert engine.asked == []


def test_without_a_key_or_an_engine_it_says_what_to_set(connected: Command, engine: Collecting) -> None:
    assert connected(*COMMAND).stderr == (
        "tollgate: STRIPE_API_KEY: set it to a secret key of Stripe's, or pipe one to --key -\n"
    )
    no_engine = connected(*COMMAND, env={"KONNECT_API_URL": ""})
    assert no_engine.exit_code == 2
    assert no_engine.stderr.startswith("tollgate: sink.konnect_api_url (KONNECT_API_URL): ")
    assert installs(engine) == 0


def test_a_check_installs_nothing_and_fails_where_something_lacks(connected: Command, engine: Collecting) -> None:
    check = connected(*COMMAND, "--check", env={"STRIPE_API_KEY": KEY})
    assert (check.exit_code, installs(engine)) == (1, 0)
    assert check.output.startswith("Stripe is not installed.")
    engine.install()
    assert connected(*COMMAND, "--check").exit_code == 1
    engine.customers[1].stripe_customer, engine.customers[1].payment_method = "cus_2", "pm_2"
    whole = connected(*COMMAND, "--check")
    assert whole.exit_code == 0
    assert "409" not in whole.output
    engine.apps[-1]["status"] = "unauthorized"
    broken = connected(*COMMAND, "--check")
    assert broken.exit_code == 1
    assert "Stripe refuses the key that it was installed with" in broken.output


def test_the_report_in_json(connected: Command, engine: Collecting) -> None:
    engine.install()
    report: dict[str, Any] = json.loads(connected(*COMMAND, "--json").output)
    assert report["engine"] == engine.v3
    assert report["installed_now"] is False
    assert report["app"] == {
        "id": engine.apps[-1]["id"],
        "name": "Stripe",
        "account": "acct_1",
        "is_live": False,
        "status": "ready",
        "masked_key": "sk_test_***000",
    }
    assert [(one["key"], one["tenants"], len(one["lacks"])) for one in report["customers"]] == [
        ("user-001", ["user-001"], 0),
        ("acme-inc", ["user-002"], 2),
    ]


def test_for_konnect_it_says_what_to_do_in_the_dashboard(connected: Command, engine: Collecting) -> None:
    konnect = {"KONNECT_API_URL": engine.konnect, "STRIPE_API_KEY": KEY}
    told = connected(*COMMAND, env=konnect)
    assert told.exit_code == 0
    for words in ("Settings, Stripe, Install", "Create Channel", "X-Webhook-Secret", "connect-stripe --check"):
        assert words in told.output
    engine.install()
    assert "Install Stripe app" not in connected(*COMMAND, env=konnect).output
    assert installs(engine) == 0, "there is no such call"


def test_an_installation_whose_answer_is_lost_is_found_the_next_time(connected: Command, engine: Collecting) -> None:
    def taken_and_lost(request: Request) -> Response | None:
        if request.method == "POST":
            engine.install()
            return problem(502, "the gateway has lost it")
        return None

    engine.answers = taken_and_lost
    lost = connected(*COMMAND, env={"STRIPE_API_KEY": KEY})
    assert lost.exit_code == 1
    assert lost.stderr.rstrip().endswith("run this again: it looks first")
    assert "Stripe is installed already" in connected(*COMMAND, env={"STRIPE_API_KEY": KEY}).output
    assert installs(engine) == 1
