"""Who signed a notification: the schemes of Svix (by which OpenMeter sends) and of Stripe, over the bytes as they came.

Sources: docs.svix.com/receiving/verifying-payloads/how-manual, docs.stripe.com/webhooks (verify manually). Both sign
each try anew, with the time of it, so that what was recorded somewhere is good for five minutes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from hmac import compare_digest
from hmac import new as hmac
from typing import Protocol

from pydantic import SecretStr
from standardwebhooks import Webhook, WebhookVerificationError

from proxy.errors import Unauthenticated

#: How far the sender's clock may be off, or its notification under way.
TOLERANCE_S = 300
#: What an operator may have Konnect's or OpenMeter's channel send as a custom header: the secret itself.
SHARED_HEADER = "x-webhook-secret"

_STAMP = re.compile(r"[0-9]{1,12}", re.ASCII)


class Verifier(Protocol):
    def verify(self, headers: Mapping[str, str], body: bytes) -> None:
        """Raises `Unauthenticated` (401, `invalid_signature`)."""


class Svix:
    """`svix-id`, `-timestamp`, `-signature`, or the same with `webhook-`: Standard Webhooks.

    A channel may send the secret itself instead (`SHARED_HEADER`): Konnect's pages know of no other check.
    """

    def __init__(self, secrets: SecretStr) -> None:
        self._secrets = [one.encode() for one in secrets.get_secret_value().split()]
        self._webhooks = [Webhook(one.decode()) for one in self._secrets]

    def verify(self, headers: Mapping[str, str], body: bytes) -> None:
        prefix = "svix" if "svix-signature" in headers else "webhook"
        given = {f"webhook-{name}": headers.get(f"{prefix}-{name}", "") for name in ("id", "timestamp", "signature")}
        shared = headers.get(SHARED_HEADER, "").encode()
        is_shared = any(compare_digest(one, shared) for one in self._secrets)
        if not is_shared and not any(_is_signed(webhook, given, body) for webhook in self._webhooks):
            raise _refusal("hooks.openmeter_secret")


class Stripe:
    """`Stripe-Signature: t=SECONDS,v1=HEX,v1=HEX`: while the secret is changed, Stripe signs with both."""

    def __init__(self, secrets: SecretStr, now_ms: Callable[[], int]) -> None:
        self._secrets = [one.encode() for one in secrets.get_secret_value().split()]
        self._now_ms = now_ms

    def verify(self, headers: Mapping[str, str], body: bytes) -> None:
        parts = [part.strip().partition("=") for part in headers.get("stripe-signature", "").split(",")]
        stamps = [value for name, _, value in parts if name == "t"]
        signatures = [value.encode() for name, _, value in parts if name == "v1"]
        is_now = len(stamps) == 1 and _STAMP.fullmatch(stamps[0]) and self._is_now(int(stamps[0]))
        # Made once for each secret, however many signatures somebody sends.
        made = self._made(stamps[0], body) if is_now and signatures else []
        if not any(compare_digest(one, signature) for one in made for signature in signatures):
            raise _refusal("hooks.stripe_secret")

    def _is_now(self, stamp_s: int) -> bool:
        return abs(self._now_ms() - stamp_s * 1000) <= TOLERANCE_S * 1000

    def _made(self, stamp: str, body: bytes) -> list[bytes]:
        signed = f"{stamp}.".encode() + body
        return [hmac(secret, signed, hashlib.sha256).hexdigest().encode() for secret in self._secrets]


def _is_signed(webhook: Webhook, headers: dict[str, str], body: bytes) -> bool:
    try:
        webhook.verify(body, headers, json_parse=False)
    except (WebhookVerificationError, ValueError):  # it raises the latter for what is no UTF-8, no base64, no pair
        return False
    return True


def _refusal(setting: str) -> Unauthenticated:
    words = (
        f"The signature is missing, wrong, or older than five minutes. Check the secret ({setting}), and the clocks."
    )
    return Unauthenticated(words, code="invalid_signature")
