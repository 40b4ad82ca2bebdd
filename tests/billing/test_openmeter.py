"""The client of the OpenMeter v3 API, against a server that answers as it is told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from proxy.billing import openmeter
from proxy.billing.openmeter import PAGE_ITEMS, TRIES, OpenMeter
from proxy.errors import ConfigurationError, EngineRefused, EngineUnavailable, EngineUnreadable
from proxy.sections import SinkSettings
from tests.delivery.receiver import Answer, Receiver

TOKEN = "kpat_S3cretS3cretS3cret"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


class Naps:
    """No wait at all, and what was asked for."""

    def __init__(self) -> None:
        self.asked_s: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.asked_s.append(seconds)


@asynccontextmanager
async def asking(receiver: Receiver, **options: Any) -> AsyncIterator[OpenMeter]:
    given: dict[str, Any] = {"token": TOKEN, "sleep": Naps(), "random": lambda: 1.0, **options}
    engine = OpenMeter(f"{given.pop('url', receiver.base_url)}/v3/openmeter/", **given)
    try:
        yield engine
    finally:
        await engine.close()


def page(items: list[Any], following: Any = None) -> Answer:
    return Answer(200, orjson.dumps({"data": items, "meta": {"page": {"next": following}}}))


async def test_a_question_carries_the_token_and_its_parameters(receiver: Receiver) -> None:
    receiver.script += [Answer(200, b'{"a": 1}'), Answer(200, b'{"b": 2}')]
    async with asking(receiver) as engine:
        assert engine.url == f"{receiver.base_url}/v3/openmeter"
        assert await engine.get("/events", {"filter[id][eq]": "a b+c/d&e=ü"}) == {"a": 1}
        assert await engine.query("/meters/1/query", {"from": "x"}) == {"b": 2}
    first, second = receiver.received
    assert (first.method, first.path) == (
        "GET",
        "/v3/openmeter/events?filter%5Bid%5D%5Beq%5D=a+b%2Bc%2Fd%26e%3D%C3%BC",
    )
    assert first.headers["authorization"] == f"Bearer {TOKEN}"
    assert (second.method, second.path, orjson.loads(second.body)) == (
        "POST",
        "/v3/openmeter/meters/1/query",
        {"from": "x"},
    )


@pytest.mark.parametrize(
    "trouble",
    [Answer.problem(500), Answer.problem(503), Answer.problem(429), Answer.problem(408), Answer(drops=True)],
    ids=["500", "503", "429", "408", "dropped"],
)
async def test_what_may_pass_is_asked_again(receiver: Receiver, trouble: Answer) -> None:
    receiver.script += [trouble] * (TRIES - 1) + [Answer(200, b"{}")]
    naps = Naps()
    async with asking(receiver, sleep=naps) as engine:
        assert await engine.get("/events") == {}
    assert naps.asked_s == [0.5, 1.0, 2.0, 4.0]


async def test_the_engine_says_when_to_come_back(receiver: Receiver) -> None:
    receiver.script += [
        Answer(429, headers={"retry-after": "7"}),
        Answer(503, headers={"retry-after": "Mon, 13 Apr 2026 10:30:09 GMT"}),
        Answer(200, b"{}"),
    ]
    naps = Naps()
    async with asking(receiver, sleep=naps, now=lambda: 1_776_076_200.0) as engine:
        await engine.query("/meters/1/query", {})
    assert naps.asked_s == [7.0, 9.0]


async def test_it_is_not_asked_for_ever(receiver: Receiver) -> None:
    receiver.judge = lambda _: Answer.problem(500, detail="out of order")
    async with asking(receiver) as engine:
        with pytest.raises(EngineUnavailable, match="500 Internal Server Error: it said 'out of order'"):
            await engine.get("/events")
    assert len(receiver.received) == TRIES


async def test_silence_is_bounded(receiver: Receiver) -> None:
    receiver.judge = lambda _: Answer(200, b"{}", delay_s=60)
    async with asking(receiver, timeout_s=0.05) as engine:
        with pytest.raises(EngineUnavailable, match=r"no answer within 0\.05 s"):
            await engine.get("/events")


async def test_nobody_listens(receiver: Receiver) -> None:
    receiver.stop()
    async with asking(receiver) as engine:
        with pytest.raises(EngineUnavailable, match="/v3/openmeter/events: "):
            await engine.get("/events")


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "it said 'bad filter; filter: oneOf: no'"),
        (401, "401 Unauthorized: the token is missing, wrong or expired"),
        (403, "403 Forbidden: the token may not read .*role Ingest.*KONNECT_TOKEN"),
        (404, "404 Not Found: nothing is there; check the base URL"),
        (405, "405 Method Not Allowed: nothing is there; check the base URL"),
        (302, "302 Found: it redirects"),
    ],
)
async def test_what_will_not_pass_is_told_at_once_with_what_to_mend(
    receiver: Receiver, status: int, words: str
) -> None:
    invalid = [{"field": "filter", "rule": "oneOf", "reason": "no"}]
    receiver.judge = lambda _: Answer.problem(status, detail="bad filter", invalid_parameters=invalid)
    async with asking(receiver) as engine:
        with pytest.raises(EngineRefused, match=words) as caught:
            await engine.get("/events")
    assert caught.value.status == status
    assert len(receiver.received) == 1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<html>", "its answer is no JSON: "),
        (b'{"data": [', "its answer is no JSON: "),
        (b"", "its answer is no JSON: "),
        (b"[]", "its answer is no JSON object: is it the base URL of a v3 API"),
    ],
)
async def test_an_answer_that_is_none_is_no_answer(receiver: Receiver, body: bytes, words: str) -> None:
    receiver.judge = lambda _: Answer(200, body)
    async with asking(receiver) as engine:
        with pytest.raises(EngineUnreadable, match=words):
            await engine.get("/events")


async def test_an_answer_is_bounded(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openmeter, "ANSWER_BYTES_MAX", 1_000)
    receiver.judge = lambda _: Answer(200, b" " * 1_001)
    async with asking(receiver) as engine:
        with pytest.raises(EngineUnreadable, match="more than 1000 bytes"):
            await engine.get("/events")


async def test_no_secret_is_repeated(receiver: Receiver) -> None:
    receiver.judge = lambda batch: Answer.problem(401, detail=f"{TOKEN} and hunter2 are wrong")
    async with asking(receiver) as engine:
        with pytest.raises(EngineRefused) as caught:
            await engine.get("/events")
    assert TOKEN not in str(caught.value)
    url = receiver.base_url.replace("//", "//someone:hunter2@")
    async with asking(receiver, token="", url=url) as engine:
        assert "hunter2" not in engine.url
        with pytest.raises(EngineRefused) as caught:
            await engine.get("/events")
    assert "hunter2" not in str(caught.value)
    assert receiver.received[-1].headers["authorization"] == "Basic c29tZW9uZTpodW50ZXIy"


def test_a_url_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"sink\.konnect_api_url"):
        OpenMeter("http://[::1")


@pytest.mark.parametrize(
    "named", ["Y3Vyc29yLzEr", "/v3/openmeter/events?page%5Bafter%5D=Y3Vyc29yLzEr&page%5Bsize%5D=9"]
)
async def test_pages_are_followed_by_their_cursors_or_by_uris_that_have_them(receiver: Receiver, named: str) -> None:
    receiver.script += [page([{"n": 1}, {"n": 2}], named), page([{"n": 3}])]
    async with asking(receiver) as engine:
        assert [item["n"] async for item in engine.by_cursor("/events", {"sort": "time asc"})] == [1, 2, 3]
    assert [request.path.partition("?")[2] for request in receiver.received] == [
        "sort=time+asc&page%5Bsize%5D=100",
        "sort=time+asc&page%5Bsize%5D=100&page%5Bafter%5D=Y3Vyc29yLzEr",
    ]


@pytest.mark.parametrize("following", ["", 7, {}])
async def test_a_cursor_that_is_none_is_not_followed(receiver: Receiver, following: object) -> None:
    receiver.judge = lambda _: page([], following)
    async with asking(receiver) as engine:
        with pytest.raises(EngineUnreadable):
            [_ async for _ in engine.by_cursor("/events", {})]


async def test_a_page_that_names_itself_as_the_next_ends_it(receiver: Receiver) -> None:
    receiver.judge = lambda _: page([{}], "again")
    async with asking(receiver) as engine:
        with pytest.raises(EngineUnreadable, match="do not end"):
            [_ async for _ in engine.by_cursor("/events", {})]
    assert len(receiver.received) == 2


@pytest.mark.parametrize("items", [None, {}, [1], "x"])
async def test_a_listing_lists_objects(receiver: Receiver, items: Any) -> None:
    receiver.judge = lambda _: page(items)
    async with asking(receiver) as engine:
        with pytest.raises(EngineUnreadable, match="no list of items"):
            [_ async for _ in engine.by_number("/meters")]


async def test_numbered_pages_end_with_one_that_is_not_full(receiver: Receiver) -> None:
    receiver.script += [page([{}] * PAGE_ITEMS), page([{}] * PAGE_ITEMS), page([])]
    async with asking(receiver) as engine:
        assert len([_ async for _ in engine.by_number("/meters")]) == 2 * PAGE_ITEMS
    assert [request.path[-1] for request in receiver.received] == ["1", "2", "3"]


async def test_numbered_pages_that_do_not_end_are_left(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openmeter, "_NUMBERED_PAGES_MAX", 3)
    receiver.judge = lambda _: page([{}] * PAGE_ITEMS)
    async with asking(receiver) as engine:
        with pytest.raises(EngineUnreadable, match="do not end"):
            [_ async for _ in engine.by_number("/meters")]
    assert len(receiver.received) == 3


async def test_a_change_is_sent_once_and_may_have_no_answer(receiver: Receiver) -> None:
    receiver.script += [Answer(201, b'{"id": "1"}'), Answer(204), Answer(503, headers={"retry-after": "3"})]
    async with asking(receiver) as engine:
        assert await engine.change("POST", "/meters", {"key": "a"}) == {"id": "1"}
        assert await engine.change("DELETE", "/meters/1") == {}
        with pytest.raises(EngineUnavailable) as unknown:
            await engine.change("PUT", "/meters/1", {"name": "b"})
    assert unknown.value.retry_after_s == 3
    assert [(one.method, one.body) for one in receiver.received] == [
        ("POST", b'{"key":"a"}'),
        ("DELETE", b""),
        ("PUT", b'{"name":"b"}'),
    ]


async def test_a_token_that_may_read_and_not_change_is_told_so(receiver: Receiver) -> None:
    receiver.script += [Answer(403)]
    async with asking(receiver) as engine:
        with pytest.raises(EngineRefused, match=r"may not change this .*Product Catalog Admin"):
            await engine.change("POST", "/meters", {})


async def test_the_engine_is_where_events_go() -> None:
    assert openmeter.engine_of(SinkSettings()) is None
    engine = openmeter.engine_of(SinkSettings(konnect_api_url="http://user:pass@127.0.0.1:1/api/v3/openmeter/"))
    assert engine is not None
    assert engine.url == "http://127.0.0.1:1/api/v3/openmeter"
    await engine.close()
