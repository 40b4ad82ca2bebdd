"""Bringing an engine to what the catalog says: whatever happens on the way, the end is the same."""

from __future__ import annotations

import asyncio
from functools import cache
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.responses import Response

from proxy.billing.applying import Applying
from proxy.billing.openmeter import Document, OpenMeter
from proxy.errors import EngineError, EngineRefused, EngineUnavailable, NotKept
from tests.billing.catalogs import plan_text
from tests.billing.engine import problem
from tests.billing.selling import Item, Selling
from tests.billing.shop import STARTER, TEXT, applied, apply, catalog, has

CHEAPER = TEXT.replace('amount = "0.000002"', 'amount = "0.000001"')


def test_everything_is_created_in_the_order_of_what_needs_what(selling: Selling) -> None:
    assert apply(selling) == [
        "create meter llm_total_tokens",
        "create meter requests",
        "create feature ai_tokens",
        "create feature mini_tokens",
        "create feature requests",
        "create feature support",
        "create plan starter",
        "publish plan starter",
        "create plan pro",
        "publish plan pro",
    ]
    assert [(one["key"], one["version"], one["status"]) for one in selling.plans] == [
        ("starter", 1, "active"),
        ("pro", 1, "active"),
    ]


def test_doing_it_again_changes_nothing(selling: Selling) -> None:
    apply(selling)
    selling.asked.clear()
    assert apply(selling) == []
    assert selling.changes == []


def test_another_price_is_another_version_and_the_one_before_is_archived(selling: Selling) -> None:
    apply(selling)
    assert apply(selling, CHEAPER) == ["new version plan starter", "publish plan starter"]
    assert [(one["version"], one["status"]) for one in selling.plans if one["key"] == "starter"] == [
        (1, "archived"),
        (2, "active"),
    ]
    assert apply(selling, CHEAPER) == []


def test_a_meter_gets_what_may_change(other: Selling) -> None:
    apply(other)
    text = TEXT.replace('endpoint = "$.endpoint"', 'provider = "$.provider"')
    assert apply(other, text) == ["update meter llm_total_tokens"]
    assert other.meters[0]["dimensions"] == {
        "model": "$.model",
        "model_family": "$.model_family",
        "provider": "$.provider",
    }


def test_what_an_engine_never_changes_is_told_before_anything_is_changed(other: Selling) -> None:
    apply(other)
    other.asked.clear()
    text = TEXT.replace("$.total_tokens", "$.completion_tokens").replace('"gpt-4o-mini"', '"gpt-4o"')
    with pytest.raises(EngineError) as refused:
        apply(other, text)
    assert str(refused.value) == (
        "meter llm_total_tokens: the engine never changes this: value_property: $.total_tokens is to be"
        " $.completion_tokens, fix: give the meter another key, and its features with it (an engine reads all events"
        " for a new meter); feature mini_tokens: the engine never changes this: filters.model_family: gpt-4o-mini is"
        " to be gpt-4o, fix: give the feature another key, and its rate cards with it"
    )
    assert other.changes == []


def test_what_the_catalog_has_no_longer_goes_only_where_that_is_said(other: Selling) -> None:
    apply(other, TEXT + plan_text("old", 'feature = "mini_tokens"\nprice = { type = "free" }'))
    other.meters.append({**other.meters[0], "id": "01G65Z755AFWAKHE12NY999999", "key": "theirs", "labels": {}})
    less = TEXT.replace("[features.support]\n", "").replace('feature = "support"', 'key = "support"')
    less = less.replace('entitlement = { type = "boolean" }', "")
    left = [str(step) for step in asyncio.run(applied(other, less)).left]
    assert left == ["archive plan old", "archive feature support"]
    assert {one["key"] for one in other.features} == {"ai_tokens", "mini_tokens", "requests", "support"}
    assert apply(other, less, prune=True) == left
    assert "support" not in {one["key"] for one in other.features}
    assert "theirs" in {one["key"] for one in other.meters}
    assert apply(other, less, prune=True) == []


def test_everything_can_go(other: Selling) -> None:
    apply(other)
    assert len(apply(other, "", prune=True)) == 8
    assert [one["status"] for one in other.plans] == ["archived", "archived"]
    assert (other.features, other.meters) == ([], [])


def test_the_draft_of_another_is_not_touched(other: Selling) -> None:
    apply(other)
    other.plans.append({**other.plans[0], "id": "01G65Z755AFWAKHE12NY999999", "version": 2, "status": "draft"})
    del other.plans[-1]["labels"]
    with pytest.raises(EngineError, match=r"plan starter: somebody has a draft of it: .*0\.000001, fix: publish or"):
        apply(other, CHEAPER)
    other.plans[-1]["labels"] = {"managed_by": "tollgate"}
    assert apply(other, CHEAPER) == ["update plan starter", "publish plan starter"]


def test_a_draft_that_was_given_up_is_deleted(other: Selling) -> None:
    apply(other)
    other.after = lambda call: problem(500) if call == "POST /plans" else None
    with pytest.raises(EngineUnavailable):
        apply(other, CHEAPER, tries=1)
    other.after = lambda _: None
    assert [one["status"] for one in other.plans] == ["active", "active", "draft"]
    assert apply(other) == ["delete plan starter"]


def test_a_draft_in_another_currency_is_made_anew(other: Selling) -> None:
    apply(other)
    other.plans.append(
        {**other.plans[0], "id": "01G65Z755AFWAKHE12NY999999", "version": 2, "status": "draft", "currency": "EUR"}
    )
    assert apply(other, CHEAPER) == ["delete plan starter", "new version plan starter", "publish plan starter"]


def test_a_plan_that_lacks_something_is_never_published(other: Selling) -> None:
    other.drops = {"entitlement"}
    for _ in range(2):
        with pytest.raises(NotKept) as refused:
            apply(other)
        assert "it took plan pro, and did not keep all of it: phases[0].rate_cards[2].entitlement" in str(refused.value)
        assert [(one["key"], one["status"]) for one in other.plans] == [("starter", "active"), ("pro", "draft")]
    other.drops = set()
    assert apply(other) == ["update plan pro", "publish plan pro"]


def test_what_an_engine_finds_wrong_is_told(other: Selling) -> None:
    other.before = lambda call: problem(400, "unit_config is not enabled") if call == "POST /plans" else None
    with pytest.raises(EngineRefused, match="unit_config is not enabled"):
        apply(other)


@pytest.mark.parametrize(
    ("call", "status"),
    [(call, 400) for call in ("GET /plans", "POST /meters", "POST /plans")]
    + [("POST /features", status) for status in (302, 400, 401, 403, 404, 405, 408, 409, 410, 412, 415, 422, 429, 500)],
)
def test_any_answer_is_told_or_overcome_and_never_in_the_way_later(other: Selling, call: str, status: int) -> None:
    other.before = lambda asked: problem(status, "no\nno") if asked == call else None
    with pytest.raises(EngineError) as told:
        apply(other, tries=2)
    assert str(status) in str(told.value)
    assert "\n" not in str(told.value)
    other.before = lambda _: None
    apply(other)
    assert has(other) == whole()


@pytest.mark.parametrize(("status", "words"), [(401, "the token is missing"), (403, "Product Catalog Admin")])
def test_a_token_that_may_not_is_no_reason_to_try_again(other: Selling, status: int, words: str) -> None:
    other.before = lambda call: problem(status) if call.startswith("POST") else None
    with pytest.raises(EngineRefused, match=words):
        apply(other)
    assert len(other.changes) == 1


def test_an_engine_that_stays_away_is_given_up(other: Selling) -> None:
    other.before = lambda call: problem(503) if call.startswith("POST") else None
    with pytest.raises(EngineUnavailable):
        apply(other, tries=3)
    assert len(other.changes) == 3


def test_a_wish_to_wait_is_heeded(other: Selling) -> None:
    asked, waits = count(), list[float]()
    other.before = lambda _: problem(429, **{"retry-after": "7"}) if next(asked) == 4 else None

    async def wait(seconds: float) -> None:
        waits.append(seconds)

    assert len(apply(other, sleep=wait)) == 10
    assert [seconds >= 7 for seconds in waits] == [True]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fates=st.lists(st.sampled_from(["", "", "", "before", "after"]), max_size=60))
def test_lost_answers_and_lost_questions_change_nothing_in_the_end(other: Selling, fates: list[str]) -> None:
    other.forget()
    coming = iter(fates)
    fate = {"now": ""}

    def before(_: str) -> Response | None:
        fate["now"] = next(coming, "")
        return problem(503) if fate["now"] == "before" else None

    other.before = before
    other.after = lambda _: problem(502) if fate["now"] == "after" else None
    assert asyncio.run(_patiently(other)) <= 10
    assert (has(other), other.faults) == (whole(), [])


async def _patiently(selling: Selling) -> int:
    while True:
        try:
            return len((await applied(selling, tries=40)).steps)
        except EngineUnavailable:
            continue


@cache
def whole() -> dict[str, list[Item]]:
    """What an engine has after an undisturbed `apply`."""
    with Selling().running() as selling:
        apply(selling)
        return has(selling)


class Killed(BaseException):
    """What SIGKILL leaves: nothing is tidied up."""


class Mortal(OpenMeter):
    """Dies at one call: before it is sent, or when its answer is there."""

    def __init__(self, url: str, at: int, *, answered: bool) -> None:
        super().__init__(url)
        self._at, self._answered, self.calls = at, answered, 0

    async def _try(self, *args: Any) -> Document:
        self.calls += 1
        if self.calls == self._at and not self._answered:
            raise Killed
        answer = await super()._try(*args)
        if self.calls == self._at:
            raise Killed
        return answer


@pytest.mark.parametrize("answered", [False, True], ids=["before it is sent", "when it is answered"])
def test_killed_at_every_call_and_begun_again_it_converges(other: Selling, answered: bool) -> None:
    for at in count(1):
        other.forget()
        killed = asyncio.run(_die(Mortal(other.url, at, answered=answered)))
        apply(other)
        assert (has(other), other.faults) == (whole(), []), f"killed at call {at}"
        if not killed:
            assert at == 19, "three listings, ten changes, a look at each draft, and three listings"
            return


async def _die(engine: OpenMeter, text: str = TEXT) -> bool:
    try:
        await Applying(engine, catalog(text)).run()
    except Killed:
        return True
    finally:
        await engine.close()
    return False


def test_a_change_of_prices_that_is_killed_makes_one_version(other: Selling) -> None:
    apply(other)
    for at in range(1, 9):
        dearer = TEXT.replace('amount = "0.000002"', f'amount = "0.00000{at + 2}1"')
        asyncio.run(_die(Mortal(other.url, at, answered=True), dearer))
        apply(other, dearer)
        starter = [one for one in other.plans if one["key"] == "starter"]
        assert [one["version"] for one in starter] == [*range(1, at + 2)]
        assert [one["status"] for one in starter] == ["archived"] * at + ["active"]


def test_four_at_once_end_where_one_ends(other: Selling) -> None:
    async def together() -> list[int]:
        done = await asyncio.gather(*(applied(other, tries=40) for _ in range(4)))
        return [len(one.steps) for one in done]

    taken = asyncio.run(together())
    assert has(other) == whole()
    assert sum(taken) == 10, "each step was taken by one of them"
    assert len(other.plans) == 2


def test_a_plan_made_by_hand_that_is_the_same_is_left_alone(other: Selling) -> None:
    apply(other)
    for one in (*other.meters, *other.features, *other.plans):
        one.pop("labels")
    assert apply(other) == []
    other.meters[0]["dimensions"]["region"] = "$.region"
    other.meters[0]["name"] = "By hand"
    assert apply(other) == [], "a dimension of theirs stays, and a name"
    other.meters[0]["dimensions"].pop("model")
    assert apply(other) == ["update meter llm_total_tokens"]
    assert other.meters[0]["dimensions"].keys() == {"region", "model", "model_family", "endpoint"}
    assert other.meters[0]["name"] == "By hand"


def test_more_than_a_page_is_read(other: Selling) -> None:
    names = [f"f{number}" for number in range(130)]
    text = TEXT + "".join(f'[features.{name}]\nmeter = "requests"\n' for name in names)
    assert len(apply(other, text)) == 140
    assert apply(other, text) == []


def test_an_engine_that_says_it_otherwise_says_the_same(other: Selling) -> None:
    apply(other)
    starter, pro = other.plans
    card = starter["phases"][0]["rate_cards"][0]
    card |= {"currency": "USD", "labels": {}, "price": {"type": "unit", "amount": "0.0000020"}}
    starter |= {"billing_cadence": "P1M", "description": ""}
    pro["phases"][0]["rate_cards"][2]["discounts"] = {"percentage": 12.50, "usage": "10000.0"}
    other.features[1]["meter"]["filters"] = {"model_family": {"in": ["gpt-4o-mini"]}}
    assert apply(other) == []
    assert STARTER in TEXT
