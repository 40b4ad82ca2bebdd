"""The steps from what an engine has to what it is to have."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.billing.deployment import Action, Found, Kind, deployment, read
from proxy.billing.mapping import feature_body, meter_body, plan_body
from proxy.billing.openmeter import OpenMeter
from proxy.errors import EngineUnreadable
from tests.billing.selling import Selling
from tests.billing.shop import TEXT, applied, catalog

NOTHING = Found({}, {}, {})


def all_of(status: str = "active") -> Found:
    """An engine that has the whole catalog, with keys for ids."""
    one = catalog()
    keys = {key: key for key in [*one.meters, *one.features]}
    return Found(
        {key: {"id": key} | meter_body(meter) for key, meter in one.meters.items()},
        {key: {"id": key} | feature_body(feature, keys) for key, feature in one.features.items()},
        {key: [{"id": key, "status": status} | plan_body(plan, keys)] for key, plan in one.plans.items()},
    )


def steps(found: Found, text: str = TEXT) -> list[str]:
    return [str(step) for step in deployment(catalog(text), found).steps]


def test_where_all_is_there_nothing_is_to_be_done() -> None:
    assert deployment(catalog(), all_of()).steps == []


def test_a_draft_is_only_published() -> None:
    assert steps(all_of("draft")) == ["publish plan starter", "publish plan pro"]


@pytest.mark.parametrize("status", ["archived", "scheduled"])
def test_a_plan_of_which_no_version_is_in_force_is_created(status: str) -> None:
    assert steps(all_of(status))[0] == "create plan starter"


@given(missing=st.sets(st.sampled_from([*catalog().meters, *catalog().features])))
def test_whatever_is_missing_nothing_comes_before_what_it_needs(missing: set[str]) -> None:
    whole = all_of()
    found = Found(
        {key: one for key, one in whole.meters.items() if key not in missing},
        {key: one for key, one in whole.features.items() if key not in missing},
        whole.plans,
    )
    order = [Kind.METER, Kind.FEATURE, Kind.PLAN]
    kinds = [order.index(step.kind) for step in deployment(catalog(), found).steps]
    assert kinds == sorted(kinds)


def test_a_feature_of_another_meter_is_blocked() -> None:
    found = all_of()
    found.features["ai_tokens"]["meter"]["id"] = "requests"
    (blocked,) = deployment(catalog(), found).blocked
    assert "meter: requests is to be llm_total_tokens" in str(blocked)


def test_what_others_made_never_goes() -> None:
    found = all_of()
    for one in (*found.meters.values(), *found.features.values(), *(plan[0] for plan in found.plans.values())):
        del one["labels"]
    done = deployment(catalog(""), found, prune=True)
    assert (done.steps, done.left) == ([], [])


def test_a_surplus_goes_in_the_order_of_what_needs_what() -> None:
    done = deployment(catalog(""), all_of(), prune=True)
    assert [step.action for step in done.steps] == [Action.ARCHIVE] * 6 + [Action.DELETE] * 2
    assert deployment(catalog(""), all_of()).left == done.steps


async def _read(url: str) -> Found:
    engine = OpenMeter(url)
    try:
        return await read(engine)
    finally:
        await engine.close()


async def test_what_was_deleted_is_not_there(other: Selling) -> None:
    await applied(other)
    for one in (*other.meters, *other.features, *other.plans):
        one["deleted_at"] = one["created_at"]
    assert await _read(other.url) == NOTHING


@pytest.mark.parametrize("change", [{"id": "../x"}, {"id": 1}, {"key": None}])
async def test_what_cannot_be_named_is_not_concluded_from(other: Selling, change: dict[str, Any]) -> None:
    await applied(other)
    other.meters[0] |= change
    with pytest.raises(EngineUnreadable, match="without an id and a key"):
        await _read(other.url)
    other.faults.clear()  # of its own making
