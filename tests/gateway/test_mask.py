from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.gateway.mask import Mask
from tests.running import tollgate
from tests.scripted import Peer, ScriptedUpstream, answer
from tests.streams import ASK

KEY = b"sk-upstream-sk-secret"
CREDENTIALS = [(b"authorization", b"Bearer " + KEY)]


@given(
    st.lists(st.sampled_from([KEY, b"sk-", b"sk-upstream", b"sk-upstream-", b"s", b"x", KEY[:-1]]), max_size=12),
    st.randoms(use_true_random=False),
)
def test_the_key_is_starred_out_however_the_bytes_are_cut(pieces: list[bytes], dice: object) -> None:
    whole = b"".join(pieces)
    mask, passed, at = Mask(CREDENTIALS), b"", 0
    while at < len(whole):
        size = dice.randint(1, len(whole))  # type: ignore[attr-defined] # a random.Random of Hypothesis's
        passed += mask.feed(whole[at : at + size])
        at += size
    passed += mask.finish()
    assert passed == whole.replace(KEY, b"*" * len(KEY))


def test_what_is_too_short_to_be_a_secret_is_left_alone() -> None:
    assert Mask([(b"authorization", b"Bearer x")]).feed(b"xylophone") == b"xylophone"
    assert Mask([]).feed(b"any") == b"any"


@pytest.mark.parametrize("status", ["400 Bad Request", "403 Forbidden", "429 Too Many Requests", "500 Oops"])
def test_an_upstream_that_repeats_its_key_does_not_tell_it_to_the_client(tmp_path: Path, status: str) -> None:
    def repeats(peer: Peer) -> None:
        sent = peer.request().headers["authorization"].removeprefix("Bearer ").encode()
        whole = answer(b'{"error": "bad key ' + sent + b'"}', f"x-key: {sent.decode()}", status=status)
        peer.send(whole[:-20])
        peer.send(whole[-20:])

    with ScriptedUpstream(repeats) as upstream:
        variables = {"OPENAI_BASE_URL": f"{upstream.url}/v1", "OPENAI_API_KEY": KEY.decode()}
        with tollgate(tmp_path, **variables) as running:
            headers = {"x-api-key": running.key()}
            seen = httpx.post(f"{running.url}/v1/chat/completions", json=ASK, headers=headers)
    assert seen.status_code == int(status[:3])
    assert seen.json() == {"error": f"bad key {'*' * len(KEY)}"}
    assert seen.headers["x-key"] == "*" * len(KEY)
