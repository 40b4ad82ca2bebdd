"""`tollgate prices`: what models cost, where that comes from, and which of those that were used have no price."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal, localcontext
from typing import Annotated, Any

import typer

from proxy.app import provider_name
from proxy.billing.overrides import PRICES
from proxy.billing.prices import PriceBook
from proxy.billing.tariff import PARTS_PER_USD, Holding, Rates
from proxy.cli.instants import iso_or_none, now_ms, parse_instant
from proxy.cli.opening import open_store, reading
from proxy.cli.output import Json, print_json, printable
from proxy.cli.tables import print_facts, print_table
from proxy.instants import Period, WrongPeriod
from proxy.limits import Calendar
from proxy.settings import load
from proxy.store.usage import unpriced_models

_OUTPUTS = ("text_output", "reasoning", "audio_output", "image_output")

app = typer.Typer(help="What models cost.", no_args_is_help=True)


@app.command("show")
def show(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="As requests or answers name it.")],
    provider: Annotated[
        str | None, typer.Option(metavar="NAME", help="As events name it. Default: the upstream's of the settings.")
    ] = None,
    tier: Annotated[str, typer.Option(metavar="NAME", help="The service tier. Default: the standard one.")] = "",
    at: Annotated[str | None, typer.Option(metavar="WHEN", help="A date or an instant. Default: now.")] = None,
    as_json: Json = False,
) -> None:
    """Show what a model costs at a time, in US dollars, and where that price comes from."""
    settings = load()
    time_ms = now_ms() if at is None else _instant(at)
    provider = provider or provider_name(settings)
    holding = PriceBook.of(settings.prices.file).holding(provider, model, time_ms, tier)
    found = _json(holding) | {"model": model, "provider": provider, "at": iso_or_none(time_ms)}
    if as_json:
        print_json(found)
        return
    print_facts(_facts(found))


@app.command("unpriced")
def unpriced(
    begin: Annotated[str | None, typer.Option("--from", metavar="WHEN", help="Default: the month's begin.")] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="WHEN", help="Default: the month's end.")] = None,
    as_json: Json = False,
) -> None:
    """List the models that were used and whose price nobody knows: their cost is missing everywhere."""
    settings, database = open_store()
    try:
        period = Period.of(begin, end, Calendar.of(settings.limits.time_zone), now_ms())
    except WrongPeriod as error:
        raise typer.BadParameter(str(error), param_hint=f"--{error.end}") from None
    with reading(database) as connection:
        found = unpriced_models(connection, period)
    if as_json:
        print_json([{"model": name, "requests": requests, "tokens": tokens} for name, requests, tokens in found])
        return
    print_table(("model", "requests", "tokens"), found, empty="Every model that was used has a price.")


def _instant(text: str) -> int:
    try:
        return parse_instant(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--at") from None


def _json(holding: Holding) -> dict[str, Any]:
    tariff = holding.tariff
    ends = {
        name: iso_or_none(int(instant)) if abs(instant) < 2**53 else None
        for name, instant in (("from", holding.from_ms), ("to", holding.until_ms))
    }
    if tariff is None:
        return {"state": "unpriced", "origin": "", **ends, "prices": []}
    steps = zip((None, *tariff.starts), tariff.rates, strict=True)
    prices = [{"above_input_tokens": start, **dict(_prices(rates))} for start, rates in steps]
    return {"state": "free" if tariff.is_free else "priced", "origin": tariff.origin, **ends, "prices": prices}


def _prices(rates: Rates) -> Iterator[tuple[str, str]]:
    """By the names that the file of own prices has for them."""
    with localcontext(prec=60):
        for key, (name, per) in PRICES.items():
            rate = getattr(rates, name)
            if rate is not None:
                yield key, f"{(Decimal(rate * per) / PARTS_PER_USD).normalize():f}"


def _facts(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "model", f"{printable(found['model'])} at {printable(found['provider'])}"
    yield "price", {"unpriced": "not known", "free": "free"}.get(found["state"], "in US dollars")
    if found["origin"]:
        yield "from", found["origin"]
    if found["from"] or found["to"]:
        yield "holds", f"from {found['from'] or 'ever'} until {found['to'] or 'further notice'}"
    for step in found["prices"] if found["state"] == "priced" else ():
        if step["above_input_tokens"] is not None:
            yield "above", f"{step['above_input_tokens']:,} input tokens"
        for key, price in step.items():
            side = "output_per_million" if PRICES.get(key, ("",))[0] in _OUTPUTS else "input_per_million"
            # Most kinds of tokens cost what all of their side do.
            if key in PRICES and (key == side or not key.endswith("_per_million") or price != step.get(side)):
                yield f"  {key.replace('_', ' ')}", price
