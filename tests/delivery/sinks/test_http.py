"""What a receiver answers, and what becomes of it."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from email.utils import format_datetime

import httpx
import orjson
import pytest
import respx
from pydantic import SecretStr

from proxy import __version__
from proxy.delivery.sinks import HttpSink, sink_for
from proxy.delivery.sinks.http import ANSWER_BYTES_MAX, SAID_CHARS_MAX, Endpoint
from proxy.errors import ConfigurationError, SinkError, SinkMisconfigured, SinkRefused, SinkUnavailable
from proxy.sections import SinkSettings
from proxy.wire.problem import RETRY_AFTER_MAX_S
from tests.delivery.ledger import event_of, settlement
from tests.delivery.receiver import Answer, Receiver

TOKEN = "kpat_S3cretS3cretS3cret"
NOW_S = 1_776_076_200.0
BATCH = [event_of(settlement(number), "tollgate") for number in range(3)]


@pytest.fixture
async def sink(receiver: Receiver) -> AsyncIterator[HttpSink]:
    sink = HttpSink(receiver.url, token=TOKEN, timeout_s=5, now=lambda: NOW_S)
    yield sink
    await sink.close()


async def refusal(sink: HttpSink) -> SinkError:
    with pytest.raises(SinkError) as caught:
        await sink.deliver(BATCH)
    return caught.value


async def test_a_batch_is_posted_as_the_contract_says(receiver: Receiver, sink: HttpSink) -> None:
    await sink.deliver(BATCH)
    (request,) = receiver.received
    assert request.method == "POST"
    assert request.path == "/events"
    assert request.headers["content-type"] == "application/cloudevents-batch+json"
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
    assert request.headers["user-agent"] == f"tollgate/{__version__}"
    assert request.body == orjson.dumps(BATCH)
    assert receiver.accepted == BATCH


class Sent(bytes):
    """A batch that tells when it is gone."""

    gone = 0

    def __del__(self) -> None:
        Sent.gone += 1


async def test_what_was_sent_does_not_wait_for_the_garbage_collector(receiver: Receiver) -> None:
    endpoint = Endpoint(httpx.URL(receiver.url), {}, secrets=[], shown="it", mend={}, timeout_s=5)
    gc.disable()
    try:
        for _ in range(3):
            await endpoint.post(Sent(orjson.dumps(BATCH)))
        await asyncio.sleep(0)
        assert Sent.gone >= 2  # a frame may still hold the last one
    finally:
        gc.enable()
        await endpoint.close()


async def test_without_a_token_no_credential_is_sent(receiver: Receiver) -> None:
    sink = HttpSink(receiver.url, timeout_s=5)
    await sink.deliver(BATCH)
    await sink.close()
    assert "authorization" not in receiver.received[0].headers


@pytest.mark.parametrize("status", [200, 201, 202, 204])
async def test_any_2xx_is_acceptance(receiver: Receiver, sink: HttpSink, status: int) -> None:
    receiver.script.append(Answer(status))
    await sink.deliver(BATCH)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *[(status, SinkUnavailable) for status in (408, 429, 500, 501, 502, 503, 504, 599)],
        *[(status, SinkMisconfigured) for status in (300, 301, 302, 304, 307, 308, 401, 403, 404, 405)],
        *[(status, SinkRefused) for status in (400, 402, 406, 409, 410, 412, 413, 415, 422, 451, 499)],
    ],
)
async def test_each_status_has_its_meaning(
    receiver: Receiver, sink: HttpSink, status: int, kind: type[SinkError]
) -> None:
    receiver.script.append(Answer(status, b"" if status == 304 else b"see here"))
    error = await refusal(sink)
    assert type(error) is kind
    assert error.words.startswith(str(status))


@pytest.mark.parametrize(
    ("status", "mend"), [(401, "token"), (403, "Ingest"), (404, "URL"), (405, "URL"), (302, "redirects")]
)
async def test_the_first_line_says_what_to_mend(receiver: Receiver, sink: HttpSink, status: int, mend: str) -> None:
    receiver.script.append(Answer(status, b"the receiver's own text"))
    own, said = (await refusal(sink)).words.split("\n")
    assert mend in own
    assert said == "the receiver's own text"


async def test_a_redirect_is_not_followed(receiver: Receiver, sink: HttpSink) -> None:
    receiver.script.append(Answer(307, headers={"location": receiver.base_url + "/elsewhere"}))
    assert isinstance(await refusal(sink), SinkMisconfigured)
    assert len(receiver.received) == 1
    assert receiver.accepted == []


@pytest.mark.parametrize(
    ("value", "wait_s"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("1.5", 1.5),
        ("86400", RETRY_AFTER_MAX_S),
        (format_datetime(datetime.fromtimestamp(NOW_S + 30, UTC), usegmt=True), 30.0),
        (format_datetime(datetime.fromtimestamp(NOW_S - 30, UTC), usegmt=True), 0.0),
        ("Fri, 31 Dec 9999 23:59:59 -0000", RETRY_AFTER_MAX_S),
        ("-5", None),
        ("soon", None),
        ("nan", None),
        ("Mon, 99 Foo 2026 99:99:99 GMT", None),
        ("", None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_read_and_bounded(
    receiver: Receiver, sink: HttpSink, status: int, value: str, wait_s: float | None
) -> None:
    receiver.script.append(Answer(status, headers={"retry-after": value}))
    error = await refusal(sink)
    assert isinstance(error, SinkUnavailable)
    assert error.retry_after_s == wait_s


@pytest.mark.parametrize(
    ("members", "said"),
    [
        (
            {"title": "Bad Request", "detail": 'Error at "/0/subject": value must be a string'},
            'Error at "/0/subject": value must be a string',
        ),
        ({"title": "Internal Server Error"}, "Internal Server Error"),
        (
            {
                "detail": "Bad Request",
                "invalid_parameters": [
                    {"field": "[3].subject", "rule": "required", "reason": "is missing", "source": "body"},
                    {"field": "[4].time", "reason": "no offset"},
                    "junk",
                ],
            },
            "Bad Request; [3].subject: required: is missing; [4].time: no offset",
        ),
        (
            {
                "detail": "validation error",
                "extensions": {"validationErrors": [{"code": "mismatch", "message": "is wrong", "field": "$.a[0]"}]},
            },
            "validation error; $.a[0]: mismatch: is wrong",
        ),
        ({"detail": "x", "extensions": [], "invalid_parameters": 5}, "x"),
    ],
)
async def test_problem_reports_are_read_in_both_shapes(
    receiver: Receiver, sink: HttpSink, members: dict[str, object], said: str
) -> None:
    receiver.script.append(Answer.problem(400, **members))
    assert (await refusal(sink)).words == f"400 Bad Request\n{said}"


async def test_other_text_is_kept_short_and_printable(receiver: Receiver, sink: HttpSink) -> None:
    receiver.script.append(Answer(400, b"\x1b[31mred\x00\r\nnext\xff\xe2\x80\xae " + b"x" * 10_000))
    own, said = (await refusal(sink)).words.split("\n")
    assert own == "400 Bad Request"
    assert said.startswith("[31mred next\ufffd xxx")
    assert len(said) == SAID_CHARS_MAX
    assert said.isprintable()


async def test_a_huge_answer_is_not_read_to_its_end(receiver: Receiver, sink: HttpSink) -> None:
    huge = b"y" * (64 * 1024 * 1024)
    receiver.script += (Answer(500, huge), Answer(202, huge))
    assert isinstance(await refusal(sink), SinkUnavailable)
    await sink.deliver(BATCH)
    await sink.deliver(BATCH)
    assert len(receiver.received) == 3


async def test_a_compressed_answer_is_not_unfolded(receiver: Receiver, sink: HttpSink) -> None:
    receiver.script.append(Answer(400, b"\x1f\x8b\x08\x00junk", {"content-encoding": "gzip"}))
    assert (await refusal(sink)).words == "400 Bad Request"
    assert receiver.received[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    "echo",
    [
        f"your token {TOKEN} is bad".encode(),
        orjson.dumps({"detail": f"Bearer {TOKEN}"}),
        b'{"detail": "Bearer ' + b"".join(b"\\u%04x" % ord(character) for character in TOKEN) + b'"}',
        orjson.dumps({"invalid_parameters": [{"field": "authorization", "reason": TOKEN}]}),
        b"z" * (SAID_CHARS_MAX - 8) + TOKEN.encode(),
        b" " * (ANSWER_BYTES_MAX - 8) + TOKEN.encode() + b"." * ANSWER_BYTES_MAX,
    ],
)
@pytest.mark.parametrize("status", [302, 400, 401, 500])
async def test_an_echoed_token_is_never_repeated(receiver: Receiver, sink: HttpSink, status: int, echo: bytes) -> None:
    receiver.script.append(Answer(status, echo))
    error = await refusal(sink)
    assert TOKEN[:8] not in error.words
    assert TOKEN[:8] not in repr(error)


async def test_a_password_in_the_url_is_sent_and_never_repeated(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    pair = "dXNlcjpoNG50M3I="  # user:h4nt3r
    receiver.judge = lambda _: Answer(404, f"Basic {pair} user:h4nt3r".encode())
    sink = HttpSink(receiver.url.replace("//", "//user:h4nt3r@"), timeout_s=5)
    words = (await refusal(sink)).words
    await sink.close()
    assert receiver.received[0].headers["authorization"] == f"Basic {pair}"
    for text in (words, caplog.text):
        assert "h4nt3r" not in text
        assert pair not in text


async def test_a_silent_receiver_is_left_after_the_timeout(receiver: Receiver) -> None:
    receiver.script.append(Answer(delay_s=30))
    sink = HttpSink(receiver.url, timeout_s=0.05)
    error = await refusal(sink)
    await sink.close()
    assert isinstance(error, SinkUnavailable)
    assert error.words == "no answer within 0.05 s"
    assert error.failed, "it may be for an event, or for too many of them"


async def test_an_answer_whose_body_never_comes_is_judged_by_its_status(receiver: Receiver) -> None:
    receiver.script += (Answer(202, headers={"content-length": "9"}), Answer(400, headers={"content-length": "9"}))
    sink = HttpSink(receiver.url, timeout_s=0.2)
    await sink.deliver(BATCH)
    assert isinstance(await refusal(sink), SinkRefused)
    await sink.close()


async def test_a_connection_that_breaks_leaves_the_outcome_open(receiver: Receiver, sink: HttpSink) -> None:
    receiver.script.append(Answer(drops=True))
    error = await refusal(sink)
    assert isinstance(error, SinkUnavailable)
    assert error.words.startswith("the connection broke")
    assert error.failed


async def test_a_receiver_that_is_not_there_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    sink = HttpSink(f"http://127.0.0.1:{port}/events?key=hidden", timeout_s=5)
    error = await refusal(sink)
    await sink.close()
    assert isinstance(error, SinkUnavailable)
    assert error.words.startswith(f"no connection to http://127.0.0.1:{port}/events: ")
    assert not error.failed, "no event can be at fault"


@pytest.mark.parametrize("kind", [httpx.ReadError, httpx.RemoteProtocolError, httpx.PoolTimeout, httpx.ProxyError])
async def test_every_transport_error_is_unavailability(kind: type[httpx.TransportError]) -> None:
    sink = HttpSink("http://receiver.test/events", token=TOKEN, timeout_s=5)
    with respx.mock:
        respx.post("http://receiver.test/events").mock(side_effect=kind(f"broken\nby {TOKEN}"))
        error = await refusal(sink)
    await sink.close()
    assert isinstance(error, SinkUnavailable)
    assert error.words.endswith("\nbroken by ***")


async def test_what_json_cannot_hold_is_refused(receiver: Receiver, sink: HttpSink) -> None:
    with pytest.raises(SinkRefused, match="JSON"):
        await sink.deliver([*BATCH, {"id": 2**64}])
    assert receiver.received == []


async def test_connections_are_used_again(receiver: Receiver, sink: HttpSink) -> None:
    for _ in range(3):
        await sink.deliver(BATCH)
    assert len(receiver.received) == 3
    assert receiver.connections == 1


async def test_closing_twice_is_fine(sink: HttpSink) -> None:
    await sink.close()
    await sink.close()


# From the settings


@pytest.mark.parametrize("end", ["", "/", "//"])
async def test_konnect_takes_events_below_its_base_url(receiver: Receiver, end: str) -> None:
    settings = SinkSettings(konnect_api_url=f"{receiver.base_url}/v3/openmeter{end}", konnect_token=SecretStr(TOKEN))
    sink = sink_for(settings)
    assert isinstance(sink, HttpSink)
    await sink.deliver(BATCH)
    await sink.close()
    assert receiver.received[0].path == "/v3/openmeter/events"
    assert receiver.received[0].headers["authorization"] == f"Bearer {TOKEN}"


async def test_any_other_receiver_is_named_by_its_whole_url(receiver: Receiver) -> None:
    sink = sink_for(SinkSettings(http_url=f"{receiver.base_url}/in/here?a=b"))
    assert isinstance(sink, HttpSink)
    await sink.deliver(BATCH)
    await sink.close()
    assert receiver.received[0].path == "/in/here?a=b"
    assert "authorization" not in receiver.received[0].headers


def test_nothing_named_is_no_sink() -> None:
    assert sink_for(SinkSettings()) is None
    assert sink_for(SinkSettings(konnect_token=SecretStr(TOKEN))) is None


def test_two_sinks_are_a_mistake_that_names_both_keys() -> None:
    settings = SinkSettings(konnect_api_url="http://one.test", file="events.jsonl")
    with pytest.raises(ConfigurationError, match=r"konnect_api_url.*KONNECT_API_URL.* and .*file.*TOLLGATE_SINK__FILE"):
        sink_for(settings)


async def test_another_receiver_has_a_token_of_its_own(receiver: Receiver) -> None:
    sink = sink_for(
        SinkSettings(http_url=receiver.url, http_token=SecretStr("its-own"), konnect_token=SecretStr(TOKEN))
    )
    assert isinstance(sink, HttpSink)
    await sink.deliver(BATCH)
    await sink.close()
    assert receiver.received[0].headers["authorization"] == "Bearer its-own"


def test_a_url_that_cannot_be_one_is_a_mistake() -> None:
    with pytest.raises(ConfigurationError):
        HttpSink("http://receiver.test:port/", timeout_s=5)
