"""Where events go: OpenMeter or Konnect, any endpoint that takes batches of CloudEvents, or a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from pydantic import SecretStr

from proxy.delivery.cloudevents import events_of
from proxy.delivery.sinks.file import FileSink
from proxy.delivery.sinks.http import HttpSink
from proxy.errors import ConfigurationError
from proxy.model import Settlement
from proxy.sections import SinkSettings

__all__ = ["EventCourier", "FileSink", "HttpSink", "Sink", "sink_for"]

_TARGETS = ("konnect_api_url", "http_url", "file")


class Sink(Protocol):
    """Takes batches of events."""

    async def deliver(self, events: Sequence[dict[str, Any]]) -> None:
        """Returns when all of them were accepted.

        Raises `SinkUnavailable`, `SinkMisconfigured` or `SinkRefused`. The first line of the error's `words` is the
        sink's own and may be logged and shown; what the receiver said, which may echo an event, follows on the next.
        """
        ...

    async def close(self) -> None:
        """Let go of connections. More than once is fine."""
        ...


class EventCourier:
    """Takes settlements to a sink, as the events of their source and profile."""

    def __init__(self, sink: Sink, settings: SinkSettings) -> None:
        self._sink = sink
        self._source = settings.source
        self._profile = settings.profile

    async def deliver(self, batch: Sequence[Settlement]) -> None:
        """As `Sink.deliver`."""
        events = [event for one in batch for event in events_of(one, self._source, self._profile)]
        if events:  # a request that used nothing has no event in a profile of one event for each token kind
            await self._sink.deliver(events)


def sink_for(settings: SinkSettings) -> Sink | None:
    """The sink that the settings name, or None. Raises `ConfigurationError` for more than one."""
    named = [key for key in _TARGETS if getattr(settings, key)]
    if len(named) > 1:
        keys = " and ".join(f"sink.{key} (TOLLGATE_SINK__{key.upper()})" for key in named)
        raise ConfigurationError(f"events go to one place: {keys} are set, keep one")
    if settings.konnect_api_url:
        url = settings.konnect_api_url.rstrip("/") + "/events"
        return HttpSink(url, token=_plain(settings.konnect_token), timeout_s=settings.timeout_s)
    if settings.http_url:
        return HttpSink(settings.http_url, token=_plain(settings.http_token), timeout_s=settings.timeout_s)
    return FileSink(settings.file) if settings.file else None


def _plain(secret: SecretStr | None) -> str:
    return "" if secret is None else secret.get_secret_value()
