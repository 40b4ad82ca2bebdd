"""Stripe as OpenMeter's way to collect: whether the app is there, and what each customer lacks to be charged by it.

Read by v3, which Konnect has as well. Only v1 of a self-hosted OpenMeter installs the app by a key; in Konnect that
takes its dashboard. What Stripe itself has (a default payment method, its billing address) is not to be seen here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from proxy.billing.openmeter import Document, OpenMeter
from proxy.errors import EngineUnreadable

_V3_SELF_HOSTED, _V1_SELF_HOSTED = "/api/v3/openmeter", "/api/v1"
_INSTALL = "/marketplace/listings/stripe/install/apikey"
_CHARGES_BY_ITSELF = "charge_automatically"


@dataclass(frozen=True, slots=True)
class App:
    """The installed Stripe app. `status` is `ready`, or `unauthorized` where Stripe refuses its key."""

    id: str
    name: str
    account: str
    is_live: bool
    status: str
    masked_key: str


@dataclass(frozen=True, slots=True)
class Profile:
    """A billing profile: which app collects the payments, and whether it charges, or sends an invoice."""

    name: str
    payment_app: str
    charges: bool


@dataclass(frozen=True, slots=True)
class Customer:
    """A customer, and what is known of its way to pay. `lacks` says in words what keeps it from being charged.

    `subjects` are its key and those that its usage is attributed by.
    """

    id: str
    key: str
    subjects: tuple[str, ...]
    stripe_customer: str
    payment_method: str
    profile: str
    lacks: tuple[str, ...]


def v1_url(url: str) -> str | None:
    """Where the v1 API is of an engine whose v3 is here; None for Konnect, which has none."""
    base = url.rstrip("/")
    return base.removesuffix(_V3_SELF_HOSTED) + _V1_SELF_HOSTED if base.endswith(_V3_SELF_HOSTED) else None


async def installed(engine: OpenMeter) -> App | None:
    """The Stripe app, if there is one. Raises `EngineError`."""
    async for one in engine.by_number("/apps"):
        if one.get("type") == "stripe" and not one.get("deleted_at"):
            texts = [_text(engine, one, name) for name in ("id", "name", "account_id", "status", "masked_api_key")]
            app_id, name, account, status, masked_key = texts
            return App(app_id, name, account, one.get("livemode") is True, status, masked_key)
    return None


async def install(v1: OpenMeter, key: str, name: str) -> None:
    """Install the app by a secret key of Stripe's, with a billing profile, which takes the place of the sandbox's.

    Not to be done twice. Raises `EngineError`, which never repeats the key.
    """
    v1.hide(key)
    await v1.change("POST", _INSTALL, {"apiKey": key, "name": name, "createBillingProfile": True})


async def customers(engine: OpenMeter, app: App | None) -> AsyncIterator[Customer]:
    """All customers, with what each lacks. Raises `EngineError`."""
    profiles, default = await _profiles(engine)
    async for one in engine.by_number("/customers"):
        if one.get("deleted_at"):
            continue
        found = _text(engine, one, "id")
        billing = await engine.get(f"/customers/{found}/billing")
        chosen = _map(billing.get("billing_profile")).get("id")
        profile = profiles.get(chosen) if chosen else default
        stripe = _map(_map(billing.get("app_data")).get("stripe"))
        customer, method = (str(stripe.get(name) or "") for name in ("customer_id", "default_payment_method_id"))
        subjects = _map(one.get("usage_attribution")).get("subject_keys")
        key = _text(engine, one, "key")
        yield Customer(
            found,
            key,
            tuple(dict.fromkeys([key, *(filter(_is_text, subjects) if isinstance(subjects, list) else [])])),
            customer,
            method,
            "" if profile is None else profile.name,
            tuple(_lacks(app, profile, customer, method)),
        )


def _lacks(app: App | None, profile: Profile | None, customer: str, method: str) -> list[str]:
    if app is None:
        return ["the Stripe app"]
    if profile is None:
        return ["a billing profile"]
    if profile.payment_app != app.id:
        return ["a billing profile that collects by Stripe"]
    lacks = [] if customer else ["a Stripe customer"]
    if profile.charges and not method:
        lacks.append("a payment method, unless Stripe has a default one")
    return lacks


async def _profiles(engine: OpenMeter) -> tuple[dict[str, Profile], Profile | None]:
    """The billing profiles by their ids, and the default one."""
    found: dict[str, Profile] = {}
    default = None
    async for one in engine.by_number("/profiles"):
        payment = _map(_map(one.get("workflow")).get("payment"))
        profile = found[_text(engine, one, "id")] = Profile(
            _text(engine, one, "name"),
            str(_map(_map(one.get("apps")).get("payment")).get("id") or ""),
            payment.get("collection_method", _CHARGES_BY_ITSELF) == _CHARGES_BY_ITSELF,
        )
        if one.get("default") is True:
            default = profile
    return found, default


def _map(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _text(engine: OpenMeter, item: Document, name: str) -> str:
    found = item.get(name)
    if not isinstance(found, str):
        raise EngineUnreadable(f"{engine.url}: an answer has an item without {name}")
    return found
