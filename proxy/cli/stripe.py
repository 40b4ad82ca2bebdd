"""`tollgate billing connect-stripe`: Stripe connected to OpenMeter, and what each customer lacks to be charged."""

from __future__ import annotations

import asyncio
import os
import re
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer
from pydantic import SecretStr

from proxy.billing import stripe
from proxy.billing.openmeter import OpenMeter
from proxy.billing.stripe import App, Customer
from proxy.cli.keys import read_secret
from proxy.cli.opening import open_store
from proxy.cli.output import Json, print_json, printable
from proxy.cli.tables import print_table
from proxy.errors import ConfigurationError, EngineUnavailable
from proxy.settings import Settings
from proxy.store import payments
from proxy.store.database import Database

_KEY_VARIABLE = "STRIPE_API_KEY"
_KEY_PATTERN = re.compile(r"(sk|rk)_(test|live)_[A-Za-z0-9_]{8,250}")

_KONNECT = """\
Konnect takes Stripe's key in its dashboard alone:

  1. Copy a secret key (sk_…) from Stripe's dashboard: Developers, API keys.
  2. In Konnect: Metering & Billing, Settings, Stripe, Install. Put the key into "Stripe API Key": Install Stripe app.
  3. Choose Auto Collection (customers need a payment method) or Send Invoice (they need an e-mail address at Stripe):
     Create Billing Profile. Start Billing makes it the default one.
  4. For POST /hooks/openmeter: Settings, Notifications, Create Channel, with Tollgate's URL and the custom header
     X-Webhook-Secret, which is TOLLGATE_HOOKS__OPENMETER_SECRET. Then Create Rule, of the types Invoice created and
     Invoice updated, with that channel.
  5. Run: tollgate billing connect-stripe --check
"""
_MEND = """\
Until then OpenMeter refuses them each subscription that has a price (409). For each:
  PUT {url}/customers/ID/billing/app-data {{"stripe":{{"customer_id":"cus_…","default_payment_method_id":"pm_…"}}}}
or have it enter a card: POST {url}/customers/ID/billing/stripe/checkout-sessions
"""


@dataclass(frozen=True, slots=True)
class _Found:
    """What is at the engine. `is_new`: the app was installed just now."""

    url: str
    is_konnect: bool
    app: App | None
    is_new: bool
    customers: list[Customer]


def connect_stripe(
    key: Annotated[
        str | None,
        typer.Option(
            metavar="-", help=f"Read the key from standard input. Default: {_KEY_VARIABLE}. Never the key itself."
        ),
    ] = None,
    name: Annotated[str, typer.Option(metavar="NAME", help="What the app is called in OpenMeter.")] = "Stripe",
    check: Annotated[
        bool, typer.Option("--check", help="Install nothing. The exit code is 1 where something lacks.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Install Stripe in a self-hosted OpenMeter, tell what customers lack to be charged, and link them to tenants.

    For Konnect it tells what to do in the dashboard. Where Stripe is installed already, nothing is changed there.
    """
    if key not in (None, "-"):
        raise typer.BadParameter(
            f"others see arguments: put the key into {_KEY_VARIABLE}, or pipe it and write --key -", param_hint="--key"
        )
    secret = "" if check else (read_secret(key) or os.environ.get(_KEY_VARIABLE, "")).strip()
    if secret and not _KEY_PATTERN.fullmatch(secret):
        raise ConfigurationError(f"{_KEY_VARIABLE}: must be a secret key of Stripe's: sk_test_…, sk_live_…, rk_…")
    settings, database = open_store()
    found = asyncio.run(_connect(settings, SecretStr(secret), name, check=check))
    tenants = _link(database, found.customers)
    if as_json:
        print_json(_json_of(found, tenants))
    else:
        _print(found, tenants)
    if check and (found.app is None or found.app.status != "ready" or any(one.lacks for one in found.customers)):
        raise typer.Exit(1)


async def _connect(settings: Settings, secret: SecretStr, name: str, *, check: bool) -> _Found:
    sink = settings.sink
    if sink.konnect_api_url is None:
        raise ConfigurationError("sink.konnect_api_url (KONNECT_API_URL): set where OpenMeter or Konnect is")
    token = "" if sink.konnect_token is None else sink.konnect_token.get_secret_value()
    v1_url = stripe.v1_url(sink.konnect_api_url)
    async with AsyncExitStack() as opened:
        v3 = OpenMeter(sink.konnect_api_url, token=token)
        opened.push_async_callback(v3.close)
        app, is_new = await stripe.installed(v3), False
        if app is None and v1_url is not None and not check:
            if not secret.get_secret_value():
                raise ConfigurationError(f"{_KEY_VARIABLE}: set it to a secret key of Stripe's, or pipe one to --key -")
            v1 = OpenMeter(v1_url, token=token)
            opened.push_async_callback(v1.close)
            try:
                await stripe.install(v1, secret.get_secret_value(), name)
            except EngineUnavailable as error:  # it may have been done
                raise EngineUnavailable(f"{error}; run this again: it looks first") from None
            app, is_new = await stripe.installed(v3), True
        customers = [one async for one in stripe.customers(v3, app)]
    return _Found(v3.url, v1_url is None, app, is_new, customers)


def _link(database: Database, found: list[Customer]) -> dict[str, list[str]]:
    """The tenants of each customer, which are noted: notifications of Stripe's name customers by such ids."""
    tenants: dict[str, list[str]] = {}
    by_payer: dict[str, list[str]] = {}
    with database.transaction() as connection:
        for one in found:
            tenants[one.id] = payments.known_tenants(connection, one.subjects)
            for payer in filter(None, (one.id, one.stripe_customer)):
                by_payer.setdefault(payer, []).extend(tenants[one.id])
        for payer, its in by_payer.items():
            payments.link(connection, payer, its)
    return tenants


def _json_of(found: _Found, tenants: dict[str, list[str]]) -> dict[str, Any]:
    customers = [asdict(one) | {"tenants": tenants[one.id]} for one in found.customers]
    app = None if found.app is None else asdict(found.app)
    return {"engine": found.url, "app": app, "installed_now": found.is_new, "customers": customers}


def _print(found: _Found, tenants: dict[str, list[str]]) -> None:
    app = found.app
    if app is None:
        typer.echo("Stripe is not installed.")
        if found.is_konnect:
            typer.echo(f"\n{_KONNECT}")
    else:
        state = "is installed now" if found.is_new else "is installed already"
        typer.echo(
            f"Stripe {state}: account {printable(app.account)}, {'live' if app.is_live else 'test'} mode,"
            f" {printable(app.status)}."
        )
        if app.status != "ready":
            typer.echo("Nothing is charged: Stripe refuses the key that it was installed with.")
    print_table(
        ("customer", "id", "tenants", "billing profile", "Stripe customer", "payment method", "lacks"),
        [
            (
                *(one.key, one.id, ", ".join(tenants[one.id]), one.profile, one.stripe_customer, one.payment_method),
                "; ".join(one.lacks),
            )
            for one in found.customers
        ],
        empty="There are no customers.",
    )
    if app is not None and any(one.lacks for one in found.customers):
        typer.echo(f"\n{_MEND.format(url=found.url)}", nl=False)
