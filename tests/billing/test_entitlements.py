"""What an engine grants, in both dialects, as it is and as it goes wrong: real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from proxy.billing import entitlements
from proxy.billing.entitlements import Grants, entitlements_of
from proxy.errors import ConfigurationError, EngineError, EngineRefused, EngineUnavailable, EngineUnreadable
from proxy.model import Access
from proxy.sections import EntitlementSettings, SinkSettings
from tests.billing.engine import problem
from tests.billing.granting import FEATURE, Granting

TOKEN = "kpat_S3cretS3cretS3cret"
DIALECTS = pytest.mark.parametrize("dialect", ["v1", "v3"])


@pytest.fixture(scope="module")
def running() -> Iterator[Granting]:
    with Granting().running() as engine:
        yield engine


@pytest.fixture
def engine(running: Granting) -> Iterator[Granting]:
    """One whom nobody may ask what is not described."""
    running.forget()
    yield running
    assert running.faults == []


@asynccontextmanager
async def asking(engine: Granting, dialect: str) -> AsyncIterator[Grants]:
    url = engine.v1 if dialect == "v1" else engine.v3
    settings = EntitlementSettings.model_validate({"feature": FEATURE, "url": url, "token": TOKEN})
    grants = entitlements_of(settings, SinkSettings())
    assert grants is not None
    try:
        yield grants
    finally:
        await grants.close()


CASES: list[tuple[dict[str, Any], Access, Access]] = [
    ({"balance": 1000, "used": 249.5}, Access(True, True, 750), Access(True, True)),
    ({"balance": 1000, "used": 1200}, Access(False, True, 0), Access(False, True)),
    ({"balance": 1000, "used": 1200, "soft": True}, Access(True, True, None), Access(True, True)),
    ({}, Access(True), Access(True)),
    ({"granted": False}, Access(False), Access(False)),
    ({"granted": None}, Access(False), Access(False)),
]


@pytest.mark.parametrize("by", ["key", "subject"])
@pytest.mark.parametrize(("given", "v1", "v3"), CASES)
async def test_each_entitlement_is_read_in_both_dialects(
    engine: Granting, given: dict[str, Any], v1: Access, v3: Access, by: str
) -> None:
    engine.add("user-0011", subjects=("xuser-001",), balance=1)  # whose name has the other's within it
    engine.add("user-001" if by == "key" else "acme", subjects=("user-001",) if by == "subject" else (), **given)
    for dialect, expected in (("v1", v1), ("v3", v3)):
        async with asking(engine, dialect) as grants:
            assert await grants.access("user-001") == expected, dialect
    assert engine.tokens == {f"Bearer {TOKEN}"}


@DIALECTS
async def test_who_is_no_customer_is_not_covered_and_one_that_is_found_is_remembered(
    engine: Granting, dialect: str
) -> None:
    async with asking(engine, dialect) as grants:
        assert await grants.access("user-001") is None
        customer = engine.add("user-001", balance=5)
        assert (await grants.access("user-001")) is not None
        engine.asked.clear()
        assert (await grants.access("user-001")) is not None
        assert len(engine.asked) == 1
        engine.customers.remove(customer)
        assert await grants.access("user-001") is None
        engine.add("other")
        engine.add("user-001", balance=7, used=1)
        found = await grants.access("user-001")
        assert found is not None
        assert found.granted


async def test_in_v1_a_customer_is_searched_over_pages_that_end(engine: Granting) -> None:
    for number in range(250):
        engine.add(f"c{number}", subjects=(f"tenant-{number}",))
    async with asking(engine, "v1") as grants:
        assert await grants.access("tenant-249") == Access(True)
        assert await grants.access("tenant-2") == Access(True)
        assert await grants.access("tenant") is None
        for number in range(250, 1100):
            engine.add(f"c{number}", subjects=(f"tenant-{number}",))
        with pytest.raises(EngineUnreadable, match="more than 1000 customers like tenant"):
            await grants.access("tenant")


@DIALECTS
@pytest.mark.parametrize(
    ("status", "error"),
    [(401, EngineRefused), (403, EngineRefused), (429, EngineUnavailable), (503, EngineUnavailable)],
)
async def test_trouble_is_told_as_what_it_is_and_asked_once(
    engine: Granting, dialect: str, status: int, error: type[EngineError]
) -> None:
    engine.answers = lambda _: problem(status, f"no {TOKEN}")
    async with asking(engine, dialect) as grants:
        with pytest.raises(error) as told:
            await grants.access("user-001")
        assert TOKEN not in str(told.value)
    assert len(engine.asked) == 1


@DIALECTS
async def test_a_wrong_base_url_is_never_taken_for_nobody_being_a_customer(engine: Granting, dialect: str) -> None:
    engine.answers = lambda _: problem(404, "no such route")
    async with asking(engine, dialect) as grants:
        with pytest.raises(EngineRefused):
            await grants.access("user-001")


GARBAGE = [
    *(
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"data": 1, "items": 1}',
        b'{"data": [1], "items": [1]}',
        b'{"data": [{}], "items": 7}',
    ),
    *(b'{"hasAccess": 1, "data": null}', b'{"key": "user-001", "id": 7, "data": [{"id": 7}]}'),
    b'{"key": "user-001", "id": "../x", "data": [{"id": "../x"}]}',
]


@DIALECTS
@pytest.mark.parametrize("raw", GARBAGE)
async def test_garbage_is_no_answer(engine: Granting, dialect: str, raw: bytes) -> None:
    engine.answers = lambda _: Response(raw)
    async with asking(engine, dialect) as grants:
        with pytest.raises(EngineUnreadable):
            await grants.access("user-001")


@pytest.mark.parametrize("value", ['"12"', "true", "-1", "1e999", "[1]"])
async def test_a_balance_that_is_none_is_no_answer(engine: Granting, value: str) -> None:
    engine.add("user-001", balance=5)

    def answers(request: Request) -> Response | None:
        if request.url.path.endswith("/value"):
            return Response(f'{{"hasAccess": true, "balance": {value}}}')
        return None

    engine.answers = answers
    async with asking(engine, "v1") as grants:
        with pytest.raises(EngineUnreadable):
            await grants.access("user-001")


async def test_an_access_that_is_none_is_no_answer(engine: Granting) -> None:
    engine.add("user-001")
    listed = {"data": [{"feature_key": FEATURE, "type": "boolean", "has_access": "yes"}]}
    engine.answers = lambda one: Response(orjson.dumps(listed)) if one.url.path.endswith("access") else None
    async with asking(engine, "v3") as grants:
        with pytest.raises(EngineUnreadable, match="no has_access"):
            await grants.access("user-001")


async def test_an_answer_that_drips_does_not_hold_it_for_ever(
    engine: Granting, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def drops() -> AsyncIterator[bytes]:
        while True:
            yield b" "
            await asyncio.sleep(0.02)

    monkeypatch.setattr(entitlements, "TIMEOUT_S", 0.2)
    engine.answers = lambda _: StreamingResponse(drops())
    async with asking(engine, "v3") as grants:
        with pytest.raises(EngineUnavailable, match=r"no answer within 0\.2 s"):
            await grants.access("user-001")


async def test_the_settings_say_whom_to_ask() -> None:
    def of(sink_url: str | None = None, **given: Any) -> Grants | None:
        sink = SinkSettings.model_validate({"konnect_api_url": sink_url, "konnect_token": TOKEN})
        return entitlements_of(EntitlementSettings.model_validate({"feature": FEATURE} | given), sink)

    assert of(feature="") is None
    good: list[tuple[dict[str, Any], str, str]] = [
        ({"sink_url": "https://us.api.konghq.com/v3/openmeter"}, "V3", "https://us.api.konghq.com/v3/openmeter"),
        ({"sink_url": "http://h:8888/api/v3/openmeter", "dialect": "v1"}, "V1", "http://h:8888/api/v1"),
        ({"url": "http://h:8888/api/v1/", "sink_url": "https://x.y/v3/openmeter"}, "V1", "http://h:8888/api/v1"),
    ]
    for given, dialect, url in good:
        grants = of(**given)
        assert grants is not None
        assert (type(grants).__name__, grants._engine.url) == (f"Grants{dialect}", url)
        await grants.close()
    wrong: list[tuple[dict[str, Any], str]] = [
        ({}, r"entitlements\.url"),
        ({"sink_url": "https://us.api.konghq.com/v3/openmeter", "dialect": "v1"}, r"entitlements\.dialect"),
        ({"url": "http://h/api/v1", "refresh_s": 400}, r"entitlements\.refresh_s"),
    ]
    for given, named in wrong:
        with pytest.raises(ConfigurationError, match=named):
            of(**given)
