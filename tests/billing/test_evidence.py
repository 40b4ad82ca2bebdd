"""What is gathered, and what is left where a question is not answered."""

from __future__ import annotations

from proxy.billing.evidence import EVENTS_MAX, Evidence, inner
from tests.billing.engine import problem
from tests.billing.selling import Selling
from tests.billing.sound import books, event, evidence, set_up


async def test_everything_is_asked_for(other: Selling) -> None:
    await set_up(other)
    other.asked.clear()
    told = await evidence(other.url)
    assert [one.partition(" ")[2] for one in other.asked] == [
        "/meters",
        "/features",
        "/plans",
        "/customers",
        "/subscriptions",
        "/profiles",
        "/events",
    ]
    assert (len(told.customers), len(told.subscriptions), len(told.events)) == (1, 1, 3)
    assert {one["key"] for one in told.features_in_use()} == {"ai_tokens"}
    assert told.ahead_s is not None


async def test_where_the_first_question_is_refused_no_other_is_asked(other: Selling) -> None:
    other.before = lambda _: problem(401)
    told = await evidence(other.url)
    assert [*told.refused] == ["/meters, /features, /plans"]
    assert other.asked == ["GET /meters"]


async def test_as_many_events_are_read_as_are_of_use(other: Selling) -> None:
    await set_up(other)
    other.events += [event(number) for number in range(EVENTS_MAX)]
    told = await evidence(other.url)
    assert len(told.events) == EVENTS_MAX


def test_a_plan_that_nobody_is_on_does_not_matter() -> None:
    assert Evidence(books(plans={})).features_in_use() == []


def test_what_is_no_table_is_an_empty_one() -> None:
    assert inner({"a": {"b": {"c": 1}}}, "a", "b") == {"c": 1}
    assert inner({"a": None}, "a", "b") == inner({}, "a") == {}
