"""`tollgate serve` that kills itself (SIGKILL) at a named step: `python -m tests.crash.server STEP serve …`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from proxy.cli import main
from proxy.delivery.sinks import EventCourier
from proxy.gateway.admit import Admission, Hold
from proxy.gateway.forward import Exchange
from proxy.gateway.respond import Passthrough
from proxy.gateway.settle import Settler
from proxy.payments import endpoint
from proxy.payments.endpoint import Hooks
from proxy.store import commit, followups, notifications
from proxy.store.commit import GroupCommit
from proxy.store.holds import Holds, Orphan
from proxy.store.outbox import Outbox
from proxy.webhooks.sender import Sender


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner: Any, name: str) -> None:
    setattr(owner, name, die)


def after(owner: Any, name: str) -> None:
    original = getattr(owner, name)

    def wrapped(*arguments: Any, **named: Any) -> Any:
        result = original(*arguments, **named)
        if hasattr(result, "__await__"):
            return _await_and_die(result)
        return die()

    setattr(owner, name, wrapped)


def before_settlements(owner: Any, name: str) -> None:
    """The writer has other work too, from the start on."""
    original = getattr(owner, name)

    def wrapped(self: Any, batch: list[Any], *others: Any) -> Any:
        return die() if any(change.settlement for change in batch) else original(self, batch, *others)

    setattr(owner, name, wrapped)


async def _await_and_die(awaited: Any) -> None:
    await awaited
    die()


#: The steps of a request, in order, and what happens at each. Those of a stream are the same.
STEPS: dict[str, Callable[[], None]] = {
    "before its trace": lambda: before(Holds, "take"),
    "after its trace": lambda: after(Holds, "take"),
    "before it is sent": lambda: after(Hold, "progress"),
    "after the answer's head": lambda: after(Exchange, "_send"),
    "after its head has gone to the client": lambda: after(Passthrough, "start"),
    "before it is settled": lambda: before(Settler, "settle"),
    "before the transaction": lambda: before_settlements(GroupCommit, "_write"),
    "before the commit": lambda: after(commit, "record"),
    "after the commit": lambda: before_settlements(GroupCommit, "_tell"),
    "before the last bytes": lambda: before(Passthrough, "finish"),
    "after the last bytes": lambda: after(Passthrough, "finish"),
    "before its hold is released": lambda: before(Admission, "release"),
    "before delivery": lambda: before(EventCourier, "deliver"),
    "after delivery": lambda: after(EventCourier, "deliver"),
    "after it is marked accepted": lambda: after(Outbox, "accept"),
}

#: Steps on other ways.
OTHER_STEPS: dict[str, Callable[[], None]] = {
    "before a background response's wait is on disk": lambda: after(followups, "add"),
    "before what was interrupted is settled": lambda: before(Orphan, "settlements"),
    "after what was interrupted is settled": lambda: before(Orphan, "close"),
    "before what webhooks tell is noted": lambda: before(notifications, "note"),
    "after a webhook is sent": lambda: after(Sender, "send"),
    "before what was told of a payment is on disk": lambda: after(endpoint, "follow"),
    "after what was told of a payment is on disk": lambda: after(Hooks, "_follow"),
}

if __name__ == "__main__":
    step = sys.argv.pop(1)
    if step:
        (STEPS | OTHER_STEPS)[step]()
    main()
