"""Each classic mistake, planted alone in a set-up that is sound, is found; and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from proxy.billing.doctor import diagnose
from proxy.billing.evidence import Finding
from tests.billing.engine import problem
from tests.billing.selling import Selling
from tests.billing.sound import CATALOG, NOW_MS, START_MS, event, evidence, set_up

Plant = Callable[[Selling], Any]


@pytest.fixture
async def sound(other: Selling) -> Selling:
    other.now = lambda: datetime.fromtimestamp(START_MS / 1000, tz=UTC)
    await set_up(other)
    return other


async def found(selling: Selling, **changes: Any) -> list[Finding]:
    return diagnose(await evidence(selling.url, **changes), CATALOG)


async def test_nothing_is_wrong_where_nothing_is_wrong(selling: Selling) -> None:
    selling.now = lambda: datetime.fromtimestamp(START_MS / 1000, tz=UTC)
    await set_up(selling)
    assert await found(selling) == []


async def test_konnect_tells_enough_of_subscriptions(sellers: dict[str, Selling]) -> None:
    konnect = sellers["konnect"]
    konnect.forget()
    konnect.now = lambda: datetime.fromtimestamp(START_MS / 1000 + 1, tz=UTC)
    await set_up(konnect)
    _another_plan(konnect)
    assert [one.code for one in await found(konnect)] == ["subscription_late", "other_plan"]
    assert konnect.faults == []


def _second_customer(selling: Selling) -> None:
    attribution = {"usage_attribution": {"subject_keys": ["user-001"]}}
    selling.customers.append({**selling.customers[0], "id": "01G65Z755AFWAKHE12NY999999", "key": "acme"} | attribution)


def _another_plan(selling: Selling) -> None:
    pro = next(one for one in selling.plans if one["key"] == "pro")
    selling.subscriptions[0] |= {"plan_id": pro["id"], "plan": {"id": pro["id"], "key": "pro", "version": 1}}


def _filter(selling: Selling) -> None:
    feature = next(one for one in selling.features if one["key"] == "ai_tokens")
    feature["meter"]["filters"] = {"model": {"in": ["gpt-4o-mini", "gpt-4o"]}}


@pytest.mark.parametrize(
    ("code", "plant", "what", "remedy"),
    [
        (
            "plan_unpublished",
            lambda one: one.plans[0].update(status="draft"),
            "plan starter is a draft",
            "tollgate billing apply",
        ),
        (
            "plan_unpublished",
            lambda one: one.plans[0].update(status="archived"),
            "plan starter is not there",
            "tollgate billing apply",
        ),
        (
            "meter_event_type",
            lambda one: one.meters[0].update(event_type="kong.llm_request"),
            "counts events of type kong.llm_request, and Tollgate sends llm_token_usage",
            "TOLLGATE_SINK__PROFILE=kong.llm_request, or",
        ),
        ("meter_event_type", lambda one: one.meters[0].update(event_type="tokens"), "of type tokens", "sell by"),
        ("meter_value", lambda one: one.meters[0].update(value_property="$.tokens"), "reads $.tokens", "total_tokens"),
        ("meter_value", lambda one: one.meters[0].update(value_property="$..x"), "reads $..x", "total_tokens"),
        (
            "filter_dated_model",
            _filter,
            "filtered by model gpt-4o, gpt-4o-mini, and upstreams answer with gpt-4o-mini-2024-07-18:",
            "model_family",
        ),
        (
            "no_customer",
            lambda one: (one.customers.clear(), one.subscriptions.clear()),
            "tenant user-001 is no customer",
            "tollgate billing onboard user-001 --plan starter",
        ),
        (
            "not_attributed",
            lambda one: one.customers[0].update(usage_attribution={"subject_keys": ["a", "b"]}),
            "has the subjects a, b, and not user-001",
            "usage_attribution.subject_keys",
        ),
        ("not_attributed", _second_customer, "a subject of customer acme as well", "from customer acme"),
        (
            "no_subscription",
            lambda one: one.subscriptions[0].update(status="canceled"),
            "customer user-001 has no subscription",
            "tollgate billing onboard user-001 --plan starter",
        ),
        (
            "subscription_late",
            lambda one: one.subscriptions[0].update(
                active_from="2026-04-13T07:30:01Z", created_at="2026-04-13T07:30:01Z"
            ),
            "subscribed since 2026-04-13T07:30:01Z, and was first used at 2026-04-13T07:30:00Z",
            "onboard before",
        ),
        ("other_plan", _another_plan, "on plan starter here, and on pro at the engine", "tollgate billing change"),
        (
            "events_refused",
            lambda one: one.events.append(event(7, "no customer found for event subject: user-001")),
            "1 of the last 4 events: no customer found for event subject: user-001",
            "tollgate billing onboard",
        ),
        (
            "events_refused",
            lambda one: one.events.append(event(7, "no meter found for event type: x")),
            "no meter found",
            "tollgate billing apply",
        ),
        (
            "events_refused",
            lambda one: one.events.append(event(7, 'event data is missing value property at "$.x"')),
            "missing value property",
            "meter",
        ),
        ("deduplication_off", lambda one: one.events.append(event(1)), "1 of the last events", "sink.dedupe.enabled"),
        ("role_missing", lambda one: _refuse(one, "/customers", 403), "/customers cannot be read", "Billing Admin"),
        ("role_missing", lambda one: _refuse(one, "/meters", 403), "cannot be read", "Product Catalog Admin"),
        ("token_invalid", lambda one: _refuse(one, "", 401), "the token is missing, wrong or expired", "KONNECT_TOKEN"),
        ("base_url", lambda one: _refuse(one, "", 404), "check the base URL", "/api/v3/openmeter"),
        ("unreachable", lambda one: _refuse(one, "", 503), "503", "see whether it runs"),
    ],
)
async def test_each_mistake_is_found_alone_with_its_remedy(
    sound: Selling, code: str, plant: Plant, what: str, remedy: str
) -> None:
    plant(sound)
    (one,) = await found(sound)
    assert (one.code, what in one.what, remedy in one.remedy) == (code, True, True), one


def _refuse(selling: Selling, path: str, status: int) -> None:
    selling.before = lambda call: problem(status) if path in call else None


@pytest.mark.parametrize(("ahead_s", "words"), [(120, "s ahead of this machine's"), (-120, "s behind this machine's")])
async def test_an_engine_whose_clock_is_elsewhere(sound: Selling, ahead_s: float, words: str) -> None:
    sound.ahead_s = ahead_s
    (one,) = await found(sound)
    assert (one.code, words in one.what) == ("clock_skew", True)


async def test_events_that_wait_longer_than_the_engine(sound: Selling) -> None:
    assert await found(sound, waiting_ms=NOW_MS - 3_600_000) == []
    (one,) = await found(sound, waiting_ms=NOW_MS - 3_600_001)
    assert (one.code, "waited for 60 minutes" in one.what, "PT1H" in one.what) == ("outbox_late", True, True)
    stamps = {key: sound.customers[0][key] for key in ("id", "created_at", "updated_at")}
    apps = {kind: {"id": stamps["id"]} for kind in ("tax", "invoicing", "payment")}
    workflow = {"collection": {"interval": "PT2H"}}
    profile = {"name": "P", "default": True, "supplier": {"name": "S"}, "workflow": workflow, "apps": apps}
    sound.profiles.append(stamps | profile)
    assert await found(sound, waiting_ms=NOW_MS - 7_200_000) == []
    assert len(await found(sound, waiting_ms=NOW_MS - 7_200_001)) == 1


async def test_nobody_there_is_told_at_once() -> None:
    (one,) = diagnose(await evidence("http://127.0.0.1:9/v3/openmeter"), CATALOG)
    assert one.code == "unreachable"


async def test_a_self_hosted_address_without_its_path(sound: Selling) -> None:
    findings = diagnose(await evidence(sound.base), CATALOG)
    assert [one.code for one in findings] == ["base_url"]


async def test_whoever_is_used_is_looked_for_also_without_a_plan_here(sound: Selling) -> None:
    (one,) = await found(sound, subjects=("user-001", "guest"))
    assert (one.code, one.remedy) == ("no_customer", "tollgate billing onboard guest --plan PLAN")
