"""One request, authenticated and read: what the later stages need to know of it."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field

from proxy.errors import Headers
from proxy.model import Caller


def _new_id() -> str:
    # The time first, so that ids sort by age and the ledger's index grows at one end. No dashes: receivers join
    # source and id with one when they look for repeats.
    return f"req_{time.time_ns() // 1_000_000:012x}{secrets.token_hex(8)}"


@dataclass(frozen=True, slots=True)
class Arrival:
    """When a request arrived, and the id that it and its event have from then on."""

    id: str = field(default_factory=_new_id)
    time_ms: int = field(default_factory=lambda: time.time_ns() // 1_000_000)
    monotonic: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True)
class Call:
    """A request as it goes upstream. `target` is path and query below the upstream's base path.

    `endpoint` is what the event calls the route; it may differ from the target (the agent layer's does).
    A call that is not `metered` leaves no event. Where `hides_usage`, the body was made to ask for usage, and
    `own_body` is the client's.
    """

    arrival: Arrival
    caller: Caller
    endpoint: str
    metered: bool
    method: str
    target: bytes
    headers: Headers
    body: bytes | None
    model: str = ""
    streamed: bool = False
    hides_usage: bool = False
    own_body: bytes = b""
