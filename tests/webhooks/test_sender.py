"""One webhook to a real receiver: its signature, and what each answer means."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from pydantic import SecretStr
from standardwebhooks import Webhook, WebhookVerificationError

from proxy.delivery.sinks.http import ANSWER_BYTES_MAX, Taken
from proxy.errors import ConfigurationError, SinkError, SinkMisconfigured, SinkRefused, SinkUnavailable
from proxy.webhooks.messages import trial
from proxy.webhooks.sender import Sender
from tests.delivery.receiver import Answer, Receiver
from tests.webhooks.hooks import SECRET, verified

pytestmark = pytest.mark.anyio

OTHER_SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
HOOK = trial(1_776_076_200_000)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@asynccontextmanager
async def sending(url: str, *, timeout_s: float = 5, now_s: float | None = None) -> AsyncIterator[Sender]:
    sender = Sender(url, SecretStr(SECRET), timeout_s, time.time if now_s is None else lambda: now_s)
    try:
        yield sender
    finally:
        await sender.close()
        await sender.close()


async def failure(receiver: Receiver, answer: Answer, **options: float) -> SinkError:
    receiver.script.append(answer)
    async with sending(receiver.url, **options) as sender:
        with pytest.raises(SinkError) as raised:
            await sender.send(HOOK)
    return raised.value


async def test_the_library_verifies_it_and_only_with_the_right_secret_and_body(receiver: Receiver) -> None:
    receiver.script.append(Answer(200, b"thank\n you"))
    async with sending(receiver.url) as sender:
        assert await sender.send(HOOK) == Taken(200, "thank you")
    (request,) = receiver.received
    assert (request.method, request.path) == ("POST", "/events")
    assert request.headers["content-type"] == "application/json"
    assert request.headers["user-agent"].startswith("tollgate/")
    assert request.body == HOOK.body.encode()
    said = verified(request)
    assert (said.id, said.type, said.timestamp) == (HOOK.id, "webhook.test", "2026-04-13T10:30:00.000Z")
    with pytest.raises(WebhookVerificationError):
        verified(request, OTHER_SECRET)
    with pytest.raises(WebhookVerificationError):
        verified(replace(request, body=request.body.replace(b"reach", b"teach")))


async def test_each_try_is_signed_anew_with_the_same_id(receiver: Receiver) -> None:
    for now_s in (1_000_000_000.9, 2_000_000_000.0):
        async with sending(receiver.url, now_s=now_s) as sender:
            await sender.deliver([HOOK])
    first, second = (request.headers for request in receiver.received)
    assert [one["webhook-timestamp"] for one in (first, second)] == ["1000000000", "2000000000"]
    assert first["webhook-id"] == second["webhook-id"] == HOOK.id
    assert first["webhook-signature"] != second["webhook-signature"]
    with pytest.raises(WebhookVerificationError, match="too"):
        Webhook(SECRET).verify(HOOK.body, dict(first))


async def test_while_the_secret_is_changed_either_will_do(receiver: Receiver) -> None:
    sender = Sender(receiver.url, SecretStr(f"{OTHER_SECRET} {SECRET}"), 5)
    receiver.script.append(Answer(200, f"{OTHER_SECRET}, {SECRET}".encode()))
    assert (await sender.send(HOOK)).said == "whsec_***, whsec_***"
    await sender.close()
    assert verified(receiver.received[0]) == verified(receiver.received[0], OTHER_SECRET)


async def test_text_that_is_not_ascii_is_signed_as_it_is_sent(receiver: Receiver) -> None:
    odd = replace(HOOK, body='{"type":"webhook.test","timestamp":"","data":{"name":"Zoë 🙂"}}')
    async with sending(receiver.url) as sender:
        await sender.send(odd)
    assert verified(receiver.received[0]).data == {"name": "Zoë 🙂"}


@pytest.mark.parametrize("status", [301, 302, 307, 308, 401, 403, 404, 405, 410])
async def test_what_someone_must_mend_is_told_so_and_a_redirect_is_not_followed(
    receiver: Receiver, status: int
) -> None:
    error = await failure(receiver, Answer(status, headers={"location": f"{receiver.base_url}/elsewhere"}))
    assert isinstance(error, SinkMisconfigured)
    assert error.words.startswith(f"{status} ")
    assert "webhooks." in error.words or "redirects" in error.words
    assert len(receiver.received) == 1


@pytest.mark.parametrize("status", [400, 406, 413, 422])
async def test_what_is_refused_for_good_comes_with_the_receivers_words(receiver: Receiver, status: int) -> None:
    error = await failure(receiver, Answer(status, b'{"title":"unknown type"}'))
    assert isinstance(error, SinkRefused)
    assert error.words.endswith("\nunknown type")


async def test_a_receiver_that_fails_or_asks_to_wait_is_tried_again(receiver: Receiver) -> None:
    error = await failure(receiver, Answer(503))
    assert isinstance(error, SinkUnavailable)
    assert (error.retry_after_s, error.failed) == (None, True)
    error = await failure(receiver, Answer(429, headers={"retry-after": "7"}))
    assert isinstance(error, SinkUnavailable)
    assert (error.retry_after_s, error.failed) == (7, False)


async def test_no_answer_in_time_leaves_it_open_whether_it_arrived(receiver: Receiver) -> None:
    error = await failure(receiver, Answer(200, delay_s=5), timeout_s=0.1)
    assert isinstance(error, SinkUnavailable)
    assert "no answer within 0.1 s" in error.words
    assert len(receiver.received) == 1
    error = await failure(receiver, Answer(drops=True))
    assert isinstance(error, SinkUnavailable)
    assert "broke before an answer came" in error.words


async def test_a_huge_answer_is_cut(receiver: Receiver) -> None:
    receiver.script.append(Answer(200, b"x" * (4 * ANSWER_BYTES_MAX)))
    async with sending(receiver.url) as sender:
        assert len((await sender.send(HOOK)).said) == 500
        assert (await sender.send(HOOK)).status == 202


async def test_neither_secret_nor_url_is_repeated(receiver: Receiver) -> None:
    url = f"{receiver.base_url}/services/T0SECRETPATH?token=S3cretS3cret"
    pair = base64.b64encode(b"user:h4nt3rh4nt3r").decode()
    for status in (200, 400, 404, 500):
        echo = f"{SECRET} {pair} /services/T0SECRETPATH?token=S3cretS3cret S3cretS3cret".encode()
        receiver.script.append(Answer(status, echo))
        async with sending(url.replace("//", "//user:h4nt3rh4nt3r@")) as sender:
            try:
                words = (await sender.send(HOOK)).said
            except SinkError as error:
                words = error.words
        for secret in (SECRET, pair, "T0SECRETPATH", "S3cret", "h4nt3r"):
            assert secret not in words
    assert receiver.received[0].headers["authorization"] == f"Basic {pair}"
    assert receiver.received[0].path == "/services/T0SECRETPATH?token=S3cretS3cret"
    receiver.stop()
    async with sending(url) as sender:
        with pytest.raises(SinkUnavailable, match=r"^no connection to http://127\.0\.0\.1:\d+/: "):
            await sender.send(HOOK)


async def test_many_at_once_share_nothing_but_the_receiver(receiver: Receiver) -> None:
    some = [trial(number) for number in range(20)]
    async with sending(receiver.url) as sender:
        await asyncio.gather(*map(sender.send, some))
    assert {verified(request).id for request in receiver.received} == {one.id for one in some}


def test_a_url_that_cannot_be_one_is_a_mistake() -> None:
    with pytest.raises(ConfigurationError, match=r"^webhooks\.url \(TOLLGATE_WEBHOOKS__URL\): "):
        Sender("http://receiver.test:port/", SecretStr(SECRET), 5)
