"""The routes beyond chat: what is served, what it is charged by, and what the operator may allow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import orjson
import pytest

from proxy.app import create_app
from proxy.errors import ConfigurationError
from proxy.model import Outcome, Units, Usage, UsageSource
from proxy.settings import load
from tests.gateway.test_forward import between, plain, streams
from tests.running import Running
from tests.scripted import ScriptedUpstream
from tests.streams import event

IMAGES = orjson.dumps({"created": 1, "data": [{"b64_json": "aGk="}, {"b64_json": "aGk="}]})
GPT_IMAGE = orjson.dumps(
    {
        "created": 1,
        "data": [{"b64_json": "aGk="}],
        "usage": {"input_tokens": 50, "output_tokens": 272, "total_tokens": 322},
    }
)
HEARD = orjson.dumps({"text": "Hello", "usage": {"type": "duration", "seconds": 37}})
HEARD_TOKENS = orjson.dumps(
    {"text": "Hello", "usage": {"type": "tokens", "input_tokens": 37, "output_tokens": 5, "total_tokens": 42}}
)
PICTURE = b"\x89PNG" + b"\x00" * 1000


@contextmanager
def sdk(directory: Path, answer: bytes, **variables: str) -> Iterator[tuple[openai.OpenAI, Running, ScriptedUpstream]]:
    with (
        between(directory, default=plain(answer), **variables) as (server, upstream),
        openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.key(), max_retries=0) as client,
    ):
        yield client, server, upstream


def test_images_are_charged_by_their_number(tmp_path: Path) -> None:
    with sdk(tmp_path, IMAGES) as (client, server, _):
        client.images.generate(model="dall-e-2", prompt="A gate", n=2)
        settled = server.settlement()
    assert (settled.endpoint, settled.requested_model) == ("/v1/images/generations", "dall-e-2")
    assert (settled.units, settled.usage_source) == (Units(images=2), UsageSource.REPORTED)
    assert (settled.outcome, settled.usage_path) == (Outcome.COMPLETED, "images")


def test_images_whose_tokens_are_reported_have_both(tmp_path: Path) -> None:
    with sdk(tmp_path, GPT_IMAGE) as (client, server, upstream):
        client.images.edit(model="gpt-image-1", prompt="A gate", image=("gate.png", PICTURE))
        settled = server.settlement()
        assert PICTURE in upstream.requests[0].body
    assert (settled.endpoint, settled.requested_model) == ("/v1/images/edits", "gpt-image-1")
    assert (settled.units, settled.usage.total_tokens) == (Units(images=1), 322)


@pytest.mark.parametrize(("answer", "audio_ms", "tokens"), [(HEARD, 37_000, 0), (HEARD_TOKENS, 0, 42)])
def test_audio_is_charged_by_seconds_or_by_tokens(tmp_path: Path, answer: bytes, audio_ms: int, tokens: int) -> None:
    with sdk(tmp_path, answer) as (client, server, upstream):
        client.audio.transcriptions.create(model="whisper-1", file=("a.mp3", b"\xff\xfb" * 5000))
        settled = server.settlement()
        assert b"\xff\xfb" * 5000 in upstream.requests[0].body
    assert (settled.endpoint, settled.requested_model) == ("/v1/audio/transcriptions", "whisper-1")
    assert (settled.units, settled.usage.total_tokens) == (Units(audio_ms=audio_ms), tokens)


def test_speech_is_charged_by_its_characters(tmp_path: Path) -> None:
    with sdk(tmp_path, b"\xff\xfb\x90" * 100) as (client, server, _):
        spoken = client.audio.speech.create(model="tts-1", voice="alloy", input="Grüße")
        assert spoken.read() == b"\xff\xfb\x90" * 100
        settled = server.settlement()
    assert (settled.endpoint, settled.units) == ("/v1/audio/speech", Units(characters=5))


def test_streamed_speech_that_reports_tokens_has_them_as_audio(tmp_path: Path) -> None:
    usage = {"input_tokens": 5, "output_tokens": 100, "total_tokens": 105}
    done = event({"type": "speech.audio.delta", "audio": "aGk="}) + event({"type": "speech.audio.done", "usage": usage})
    with between(tmp_path, default=streams(done)) as (server, _):
        asked = {"model": "gpt-4o-mini-tts", "input": "Hello", "voice": "alloy", "stream_format": "sse"}
        seen = httpx.post(f"{server.url}/v1/audio/speech", json=asked, headers={"x-api-key": server.key()})
        assert seen.content == done
        settled = server.settlement()
    assert (settled.usage, settled.units) == (Usage(uncached_input=5, audio_output=100), Units(characters=5))


def test_moderations_are_metered_and_counting_tokens_is_free(tmp_path: Path) -> None:
    answer = orjson.dumps({"id": "modr-1", "model": "omni-moderation-latest", "results": []})
    with sdk(tmp_path, answer) as (client, server, _):
        client.moderations.create(model="omni-moderation-latest", input="Hello")
        client.responses.input_tokens.count(model="gpt-4o", input="Hello")
        settled = server.settlement()
    assert (settled.endpoint, settled.usage_source) == ("/v1/moderations", UsageSource.ESTIMATED)


def test_the_model_list_of_a_key_holds_for_forms_too(tmp_path: Path) -> None:
    with between(tmp_path, default=plain(HEARD)) as (server, upstream):
        key = server.key(models=("gpt-4o-transcribe",))
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0) as client:
            with pytest.raises(openai.PermissionDeniedError):
                client.audio.transcriptions.create(model="whisper-1", file=("a.mp3", b"x"))
            client.audio.transcriptions.create(model="gpt-4o-transcribe", file=("a.mp3", b"x"))
        assert len(upstream.requests) == 1


def test_a_broken_form_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    with between(tmp_path) as (server, upstream):
        headers = {"x-api-key": server.key(), "content-type": "multipart/form-data; boundary=x"}
        seen = httpx.post(f"{server.url}/v1/audio/transcriptions", content=b"--x\r\nnonsense", headers=headers)
        assert (seen.status_code, seen.json()["error"]["type"]) == (400, "invalid_request_error")
        assert upstream.requests == []


def test_a_refusal_says_how_to_allow_the_route_and_that_works(tmp_path: Path) -> None:
    with sdk(tmp_path, b'{"object":"list","data":[]}') as (client, server, _):
        with pytest.raises(openai.PermissionDeniedError) as caught:
            client.files.list()
        assert caught.value.code == "route_not_allowed"
        assert '"GET /v1/files" in TOLLGATE_SERVER__ALLOW_ROUTES' in str(caught.value)
    allowed = {"TOLLGATE_SERVER__ALLOW_ROUTES": "GET /v1/files, POST /v1/rerank"}
    with sdk(tmp_path, b'{"object":"list","data":[]}', **allowed) as (client, server, _):
        assert client.files.list().data == []
        assert server.settlements() == []  # nothing was generated


@pytest.mark.parametrize(
    ("answer", "total"), [({"results": [], "usage": {"total_tokens": 7}}, 7), ({"results": []}, 0)]
)
def test_an_allowed_route_that_nobody_knows_is_metered_by_whatever_usage_it_reports(
    tmp_path: Path, answer: dict[str, Any], total: int
) -> None:
    variables = {"TOLLGATE_SERVER__ALLOW_ROUTES": "POST /v1/rerank"}
    with between(tmp_path, default=plain(orjson.dumps(answer)), **variables) as (server, _):
        body = {"model": "rerank-1", "query": "q", "documents": ["a"]}
        seen = httpx.post(f"{server.url}/v1/rerank", json=body, headers={"x-api-key": server.key()})
        assert seen.json() == answer
        settled = server.settlement()
    assert (settled.endpoint, settled.usage.total_tokens, settled.requested_model) == ("/v1/rerank", total, "rerank-1")


@pytest.mark.parametrize("pattern", ["/v1/rerank", "POST rerank", "POST /v1/realtime/sessions", "FETCH /v1/x"])
def test_a_pattern_that_cannot_be_is_refused_at_the_start(tmp_path: Path, pattern: str) -> None:
    given = {"TOLLGATE_DATABASE_URL": f"sqlite:///{tmp_path}/t.db", "TOLLGATE_SERVER__ALLOW_ROUTES": pattern}
    with pytest.raises(ConfigurationError, match="allow_routes"):
        create_app(load(given, directory=tmp_path))
