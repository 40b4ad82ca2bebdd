"""What it costs to admit a request of a tenant with ten limits: CPU time in this process, without any I/O."""

from __future__ import annotations

import asyncio
import time

from proxy.gateway.call import Arrival, Call
from proxy.limits import Written
from proxy.model import Caller, Counted, Limit, Usage
from proxy.wire.output import Output
from tests.bench.systems import LIMITS, TENANT
from tests.gateway.spending import quotas
from tests.store.samples import settlement

_CALLS = 5_000
#: As many at the same time as the plain requests of the same run.
_IN_FLIGHT = 64
_ROUNDS = 7


def admission_us() -> tuple[float, float]:
    """CPU µs to reserve in ten limits; and to reserve, settle and release. The best of some rounds."""
    rounds = [asyncio.run(_round()) for _ in range(_ROUNDS)]
    return min(one for one, _ in rounds), min(other for _, other in rounds)


async def _round() -> tuple[float, float]:
    kept = quotas()
    written = [Written.parse(one) for one in LIMITS]
    limits = tuple(
        Limit(Counted("tenant", TENANT, one.unit, one.window), one.value, "tenant", False) for one in written
    )
    caller = Caller("key_1", TENANT, True, frozenset(), False, None, limits=limits)
    calls = [
        Call(
            *(Arrival(), caller, "/v1/chat/completions", True, "POST", b"/v1/chat/completions", [], b"{}"),
            model="gpt-4o-mini",
            input_tokens=212,
            output=Output(200),
        )
        for _ in range(_CALLS)
    ]
    ends = [settlement(one.arrival.id, subject=TENANT, usage=Usage(212, text_output=131)) for one in calls]
    await kept.account(caller)
    reserving_s = ending_s = 0.0
    for at in range(0, _CALLS, _IN_FLIGHT):
        began_s = time.process_time()
        held = [await kept.reserve(one) for one in calls[at : at + _IN_FLIGHT]]
        reserved_s = time.process_time()
        for end, reservation in zip(ends[at : at + _IN_FLIGHT], held, strict=True):
            kept.settled(end)
            kept.release(end.id, reservation)
        reserving_s += reserved_s - began_s
        ending_s += time.process_time() - reserved_s
    return reserving_s / _CALLS * 1e6, (reserving_s + ending_s) / _CALLS * 1e6
