"""Money and quantities: exact decimals, as they are written, and the one rounding.

OpenMeter rounds half up, to the digits of the currency, each line of an invoice for itself; so does this.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import ROUND_HALF_UP, Context, Decimal, localcontext

#: Wide enough for any product of a written amount and a quantity of the ledger: nothing is lost before the rounding.
EXACT = Context(prec=120, rounding=ROUND_HALF_UP)
ZERO = Decimal(0)

#: What the engine takes for a number (`Numeric`): no exponent, no sign here. Bounded, so that products stay exact.
_WRITTEN = re.compile(r"[0-9]{1,24}(\.[0-9]{1,24})?", re.ASCII)

#: ISO 4217, by how many digits come after the point.
_CURRENCIES = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    2: "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CNY COP"
    " CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR"
    " IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN"
    " NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP"
    " STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD UYU UZS VED VES WST XCD YER ZAR ZMW",
    3: "BHD IQD JOD KWD LYD OMR TND",
}
DIGITS = {code: digits for digits, codes in _CURRENCIES.items() for code in codes.split()}


def parse(words: str) -> Decimal:
    """A number as it is written, such as `0.000002`. Raises `ValueError`, worded for the user."""
    if not _WRITTEN.fullmatch(words):
        raise ValueError("it is no plain decimal number such as 0.000002, without sign and exponent")
    return Decimal(words)


def plain(number: Decimal) -> str:
    """As the engine takes it: without exponent, and without zeros that say nothing."""
    words = f"{number:f}"
    return words.rstrip("0").rstrip(".") if "." in words else words


def thousands(number: Decimal) -> str:
    """For people: `15,000`."""
    whole, _, fraction = plain(number).partition(".")
    return f"{int(whole):,}{'.' * bool(fraction)}{fraction}"


def total(amounts: Iterable[Decimal]) -> Decimal:
    """Their sum, with all of its digits."""
    with localcontext(EXACT):
        return sum(amounts, ZERO)


def rounded(amount: Decimal, digits: int) -> Decimal:
    """To the digits of a currency, half up."""
    return EXACT.quantize(amount, Decimal(1).scaleb(-digits))
