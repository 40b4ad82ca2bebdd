"""Sends notifications as Standard Webhooks: one POST each, signed anew for each try, with an id that stays the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import httpx
from pydantic import SecretStr
from standardwebhooks import Webhook

from proxy.delivery.sinks.http import Endpoint, Taken, credential
from proxy.errors import ConfigurationError
from proxy.model import Notification

_MEND = {
    401: "the receiver refuses the signature; check webhooks.secret, and the clocks",
    403: "the receiver refuses the signature; check webhooks.secret, and the clocks",
    404: "nothing takes webhooks there; check webhooks.url",
    405: "nothing takes webhooks there; check webhooks.url",
    410: "the receiver wants no more webhooks; check webhooks.url, or take it away",
}
#: A shorter part of a path is no secret.
_PATH_SECRET_CHARS_MIN = 8


class Sender:
    """Owns the connections to the receiver."""

    def __init__(self, url: str, secret: SecretStr, timeout_s: float, now: Callable[[], float] = time.time) -> None:
        """`user:password@` of the URL is sent as Basic. `timeout_s` bounds a whole call; `now` is unix seconds.

        Raises `ConfigurationError` for a URL that cannot be one.
        """
        try:
            given = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise ConfigurationError(f"webhooks.url (TOLLGATE_WEBHOOKS__URL): {error}") from None
        authorization, secrets = credential(given, "")
        headers = {"content-type": "application/json"}
        if authorization:
            headers["authorization"] = authorization
        # Whoever knows the path of a webhook can often use it.
        in_path = [part for part in given.path.split("/") if len(part) >= _PATH_SECRET_CHARS_MIN]
        self._now = now
        # While the secret is changed there are two, and either will do.
        signing = secret.get_secret_value().split()
        self._webhooks = [Webhook(one) for one in signing]
        self._endpoint = Endpoint(
            given.copy_with(userinfo=b"", fragment=None),
            headers,
            secrets=[*(one.removeprefix("whsec_") for one in signing), *secrets, *in_path],
            shown=str(given.copy_with(userinfo=b"", raw_path=b"/", fragment=None)),
            mend=_MEND,
            timeout_s=timeout_s,
            now=now,
        )

    async def send(self, one: Notification) -> Taken:
        """Returns when the receiver answered 2xx. Raises `SinkUnavailable`, `SinkMisconfigured`, `SinkRefused`."""
        signed_at = datetime.fromtimestamp(int(self._now()), UTC)
        headers = {
            "webhook-id": one.id,
            "webhook-timestamp": str(int(signed_at.timestamp())),
            "webhook-signature": " ".join(webhook.sign(one.id, signed_at, one.body) for webhook in self._webhooks),
        }
        return await self._endpoint.post(one.body.encode(), headers)

    async def deliver(self, batch: Sequence[Notification]) -> None:
        """The same, for a relay: it hands over one at a time (`WebhookSettings.batch_max`)."""
        for one in batch:
            await self.send(one)

    async def close(self) -> None:
        """Let go of connections. More than once is fine."""
        await self._endpoint.close()
