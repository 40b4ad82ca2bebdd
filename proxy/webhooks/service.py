"""All of webhooks together, for the application to start and stop."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack

from proxy.delivery.relay import Relay
from proxy.limits import Calendar
from proxy.model import Notification
from proxy.sections import WebhookSettings
from proxy.store.commit import GroupCommit
from proxy.store.database import Database
from proxy.store.lease import FileLease
from proxy.store.notifications import NOTIFICATIONS, Counts, is_on, switch
from proxy.store.outbox import Outbox
from proxy.webhooks.lookout import Lookout
from proxy.webhooks.sender import Sender

#: How long a stop waits for what is still to be sent. The rest goes out after the next start.
_FLUSH_S = 2.0


def webhooks_for(
    settings: WebhookSettings,
    database: Database,
    commit: GroupCommit,
    calendar: Calendar,
    now_ms: Callable[[], int],
) -> Webhooks | None:
    """Webhooks, where a URL is set. What is settled from here on is looked at, or is not any more where none is."""
    on = settings.url is not None
    with database.transaction() as connection:
        if is_on(connection) is not on:
            switch(connection, on=on)
    if settings.url is None or settings.secret is None:
        return None
    sender = Sender(settings.url, settings.secret, settings.timeout_s)
    return Webhooks(sender, settings, database, commit, calendar, now_ms)


class Webhooks:
    """What is to be told is noted by the lookout, and sent by the relay."""

    def __init__(
        self,
        sender: Sender,
        settings: WebhookSettings,
        database: Database,
        commit: GroupCommit,
        calendar: Calendar,
        now_ms: Callable[[], int],
    ) -> None:
        self._sender = sender
        self._outbox = Outbox(database, commit, now_ms, NOTIFICATIONS)
        #: Sends what was noted.
        self.relay: Relay[Notification] = Relay(
            self._outbox,
            sender,
            settings,
            FileLease(database.path, "webhooks"),
            what="webhook",
            receiver="the receiver of webhooks",
        )
        #: Told of what happens.
        self.lookout = Lookout(database, commit, self.relay, settings, calendar, now_ms=now_ms)
        self._running = AsyncExitStack()

    def start(self) -> None:
        self._running.callback(self._outbox.close)
        self._running.push_async_callback(self._sender.close)
        self.relay.start()
        self._running.push_async_callback(self.relay.stop, _FLUSH_S)
        self.lookout.start()
        self._running.push_async_callback(self.lookout.stop)

    async def stop(self) -> None:
        """Note what there is to tell, and try to send it, before the ledger is closed."""
        await self._running.aclose()

    @property
    def counts(self) -> Counts:
        """How many wait for the receiver, and how many it refused for good, a few seconds ago at most."""
        return self.lookout.counts

    @property
    def results(self) -> dict[str, int]:
        """Deliveries since the start, by what became of them; `failed` ones are tried again."""
        return {"accepted": self.relay.accepted, "failed": self.relay.failures, "refused": self.relay.refused}

    @property
    def trouble(self) -> str:
        """Why they cannot be sent; empty while all is well."""
        return self.relay.trouble
