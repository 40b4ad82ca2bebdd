"""A receiver of webhooks that checks each as Standard Webhooks does, and a Tollgate that sends to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from standardwebhooks import Webhook

from proxy.limits import Written
from proxy.store import limits as stored
from proxy.store.database import Database
from tests.delivery.receiver import Received, Receiver
from tests.gateway.test_forward import between
from tests.running import Running, wait_until
from tests.scripted import Peer, Script, ScriptedUpstream, answer
from tests.streams import ASK

SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
KEY = {"x-api-key": "ak_of_user_001"}
CHAT = "/v1/chat/completions"
#: Needs next to nothing of a limit before it is answered.
SMALL = ASK | {"max_tokens": 1}


@dataclass(frozen=True, slots=True)
class Hook:
    """One request that a receiver got, whose signature was right."""

    id: str
    type: str
    timestamp: str
    data: dict[str, Any]


def verified(request: Received, secret: str = SECRET) -> Hook:
    """Raises `WebhookVerificationError` where the signature is wrong."""
    said = Webhook(secret).verify(request.body, dict(request.headers))
    assert orjson.loads(request.body) == said
    assert sorted(said) == ["data", "timestamp", "type"]
    return Hook(request.headers["webhook-id"], said["type"], said["timestamp"], said["data"])


def hooks(receiver: Receiver) -> list[Hook]:
    """Every request so far."""
    return [verified(request) for request in tuple(receiver.received)]


def told(receiver: Receiver) -> list[tuple[str, int | None]]:
    """The types of what it was told, repeats dropped by their ids, and the percentages of those that have one."""
    return [(one.type, one.data.get("percent")) for one in {one.id: one for one in hooks(receiver)}.values()]


def until_told(receiver: Receiver, count: int) -> None:
    wait_until(lambda: len({one.headers["webhook-id"] for one in tuple(receiver.received)}) >= count)


def variables(receiver: Receiver, **more: str) -> dict[str, str]:
    return {
        "TOLLGATE_WEBHOOKS__URL": receiver.url,
        "TOLLGATE_WEBHOOKS__SECRET": SECRET,
        "TOLLGATE_WEBHOOKS__RETRY_MAX_S": "0.05",
        **more,
    }


def uses(*tokens: int) -> Script:
    """A script of an upstream: each request uses the next number of tokens, whatever it asked for."""
    rest = list(tokens)

    def script(peer: Peer) -> None:
        while True:
            peer.request()
            used = rest.pop(0) if rest else 1
            usage = {"prompt_tokens": used, "completion_tokens": 0, "total_tokens": used}
            body = {"id": "chatcmpl-1", "model": "gpt-4o-mini-2024-07-18", "choices": [], "usage": usage}
            peer.send(answer(orjson.dumps(body), "content-type: application/json"))

    return script


@contextmanager
def telling(
    directory: Path, receiver: Receiver, *tokens: int, **more: str
) -> Iterator[tuple[Running, ScriptedUpstream]]:
    """A Tollgate whose requests use these tokens, one after the other."""
    with between(directory, default=uses(*tokens), **variables(receiver, **more)) as (server, upstream):
        yield server, upstream


def limit(database: Database, *written: str, owner: str = "user-001", soft: bool = False) -> None:
    with database.transaction() as connection:
        for one in written:
            kind: stored.Owner = "key" if owner.startswith("key_") else "tenant"
            stored.set_limit(connection, kind, owner, Written.parse(one), soft=soft)
