"""An invoice for machines, for spreadsheets and for paper: JSON, CSV and a page of HTML that needs nothing else."""

from __future__ import annotations

import csv
import io
from decimal import Decimal
from html import escape
from typing import Any

from proxy.billing.invoice import Invoice
from proxy.billing.money import DIGITS, plain, thousands
from proxy.billing.rating import FEE, USAGE, Charge, Line
from proxy.instants import iso, iso_short

_STYLE = """
@page { size: A4; margin: 20mm 18mm; }
* { box-sizing: border-box; }
body { font: 10pt/1.45 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; color: #1a1a1a;
  max-width: 174mm; margin: 12mm auto; padding: 0 4mm; overflow-wrap: anywhere; }
h1 { font-size: 20pt; font-weight: 600; margin: 0 0 8mm; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 1mm 6mm; margin: 0 0 10mm; }
dt { color: #666; } dd { margin: 0; }
table { width: 100%; border-collapse: collapse; }
th { text-align: left; font-weight: 600; border-bottom: 1.5pt solid #1a1a1a; padding: 0 2mm 2mm; }
td { padding: 2mm; border-bottom: .5pt solid #ddd; vertical-align: top; }
th:first-child, td:first-child { padding-left: 0; } th:last-child, td:last-child { padding-right: 0; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.part td { border-bottom-color: #f0f0f0; color: #555; padding-top: 1mm; padding-bottom: 1mm; }
.part td:first-child { padding-left: 5mm; }
tr { break-inside: avoid; } .part { break-before: avoid; }
thead { display: table-header-group; } tfoot { display: table-row-group; }
tfoot td { border: 0; border-top: 1.5pt solid #1a1a1a; font-weight: 600; font-size: 12pt; padding-top: 3mm; }
.note { color: #666; margin-top: 8mm; }
@media print { body { margin: 0; padding: 0; max-width: none; } }
"""


def statement_json(one: Invoice) -> dict[str, Any]:
    """Amounts are decimal strings; a quantity is a number where it is whole, and else such a string."""
    return {
        "tenant": one.tenant.id,
        "period": {"from": iso(one.period.from_ms), "to": iso(one.period.to_ms)},
        "currency": one.currency,
        "lines": [_line_json(line, one.currency) for line in one.lines],
        "total": money(one.total, one.currency),
    }


def statement_csv(one: Invoice) -> str:
    """A row for each line, and the total in the last."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["tenant", "from", "to", "currency", "key", "name", "quantity", "free", "discount", "amount"])
    begin = [one.tenant.id, iso(one.period.from_ms), iso(one.period.to_ms), one.currency]
    for line in one.lines:
        numbers = [plain(line.quantity), plain(line.free), money(line.discount, one.currency)]
        writer.writerow([*begin, line.card.key, _cell(line.card.name), *numbers, money(line.amount, one.currency)])
    writer.writerow([*begin, "total", "", "", "", "", money(one.total, one.currency)])
    return text.getvalue()


def statement_html(one: Invoice) -> str:
    """The whole page, in UTF-8."""
    plan = one.snapshot.plan
    facts = [
        ("Customer", one.tenant.name if one.tenant.name == one.tenant.id else f"{one.tenant.name} ({one.tenant.id})"),
        ("Period", f"{iso_short(one.period.from_ms)} until {iso_short(one.period.to_ms)}"),
        ("Plan", f"{plan.name}, version {one.subscription.version}"),
        *([("Phase", one.period.phase.name)] if len(plan.phases) > 1 else []),
        ("Currency", one.currency),
    ]
    head = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts)
    rows = "".join(_row_html(line, one.currency) for line in one.lines)
    title = f"Invoice for {escape(one.tenant.name)}"
    note = '<p class="note">The period is not over: this is what has come together so far.</p>' if one.is_open else ""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head>\n<body><h1>Invoice</h1><dl>{head}</dl>\n"
        '<table><thead><tr><th>Item</th><th class="n">Quantity</th><th class="n">Unit price</th>'
        f'<th class="n">Discount</th><th class="n">Amount</th></tr></thead>\n<tbody>{rows}</tbody>\n'
        f'<tfoot><tr><td colspan="4">Total</td><td class="n">{_money_html(one.total, one.currency)} {one.currency}</td>'
        f"</tr></tfoot></table>{note}</body></html>\n"
    )


def money(amount: Decimal, currency: str) -> str:
    """With all digits of the currency: `0.30`."""
    return f"{amount:.{DIGITS[currency]}f}"


def whole(line: Line) -> Charge | None:
    """The one charge that is the line itself: the same quantity, at one price."""
    if len(line.charges) == 1 and line.charges[0].what in (USAGE, FEE) and line.charges[0].quantity == line.quantity:
        return line.charges[0]
    return None


def unit_price(line: Line) -> str:
    """The price of the whole line, if it has one."""
    one = whole(line)
    return "" if one is None else plain(one.unit_price)


def parts(line: Line) -> tuple[Charge, ...]:
    """The charges that say more than the line itself."""
    return line.charges if whole(line) is None else ()


def _line_json(line: Line, currency: str) -> dict[str, Any]:
    return {
        "key": line.card.key,
        "name": line.card.name,
        "feature": line.card.feature or None,
        "price": line.card.price.type,
        "payment_term": line.card.payment_term,
        "quantity": _quantity_json(line.quantity),
        "free": _quantity_json(line.free),
        "charges": [
            {
                "what": one.what,
                "quantity": _quantity_json(one.quantity),
                "unit_price": plain(one.unit_price),
                "discount": money(one.discount, currency),
                "amount": money(one.amount, currency),
            }
            for one in line.charges
        ],
        "discount": money(line.discount, currency),
        "amount": money(line.amount, currency),
    }


def _quantity_json(quantity: Decimal) -> int | str:
    return int(quantity) if quantity == quantity.to_integral_value() else plain(quantity)


def _row_html(line: Line, currency: str) -> str:
    cells = [thousands(line.quantity), unit_price(line), _discount_html(line.discount, currency)]
    rows = [_cells_html(line.card.name, [*cells, _money_html(line.amount, currency)])]
    if line.free:
        rows.append(_cells_html("of these free", [thousands(line.free), "", "", ""], is_part=True))
    for one in parts(line):
        cells = [thousands(one.quantity), plain(one.unit_price), _discount_html(one.discount, currency)]
        rows.append(_cells_html(one.what, [*cells, _money_html(one.amount, currency)], is_part=True))
    return "".join(rows)


def _cells_html(name: str, numbers: list[str], *, is_part: bool = False) -> str:
    cells = "".join(f'<td class="n">{one}</td>' for one in numbers)
    return f"<tr{' class=part' * is_part}><td>{escape(name)}</td>{cells}</tr>\n"


def _discount_html(amount: Decimal, currency: str) -> str:
    return f"−{_money_html(amount, currency)}" if amount else ""


def _money_html(amount: Decimal, currency: str) -> str:
    return f"{amount:,.{DIGITS[currency]}f}"


def _cell(text: str) -> str:
    """Text that no spreadsheet takes for a formula: names come out of a file that people write."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t")) else text
