"""The kept connections of a pool, and whom each of them may serve next."""

from __future__ import annotations

from proxy.upstream.connection import Connection

#: How long a connection rests before it serves another tenant. What an upstream says too late (a second answer to one
#: request, an answer that a front end of its own had mixed up) comes in this time, and closes the connection.
REST_S = 1.0


class Idle:
    """Connections that wait, last in first out. The tenant that used one last has it back at once, others later.

    An upstream's answers carry nothing that tells whose they are. So one that comes late must find its own tenant's
    request on the connection, or none.
    """

    def __init__(self) -> None:
        # Each in the order of return; what has rested went before what rests.
        self._resting: dict[Connection, None] = {}
        self._rested: dict[Connection, None] = {}
        self._of: dict[str, dict[Connection, None]] = {}

    def __len__(self) -> int:
        return len(self._resting) + len(self._rested)

    def put(self, connection: Connection, now: float) -> None:
        connection.idle_since = now
        self._resting[connection] = None
        self._of.setdefault(connection.tenant, {})[connection] = None

    def take(self, tenant: str, now: float) -> Connection | None:
        """The connection that this tenant may use now, if there is one."""
        own = self._of.get(tenant)
        if own:
            connection = next(reversed(own))
        else:
            self._wake(now)
            if not self._rested:
                return None
            connection = next(reversed(self._rested))
        self.remove(connection)
        return connection

    def oldest(self) -> Connection | None:
        """The one that has waited longest."""
        return next(iter(self._rested), None) or next(iter(self._resting), None)

    def remove(self, connection: Connection) -> None:
        """Forget a connection, which need not be here."""
        own = self._of.get(connection.tenant, {})
        if connection not in own:
            return
        del own[connection]
        if not own:
            del self._of[connection.tenant]
        self._resting.pop(connection, None)
        self._rested.pop(connection, None)

    def _wake(self, now: float) -> None:
        while self._resting:
            connection = next(iter(self._resting))
            if now - connection.idle_since < REST_S:
                return
            del self._resting[connection]
            self._rested[connection] = None
