"""README's section on performance, written from what was measured: `python -m tests.bench.readme`.

It takes var/bench.json and var/curves.json, where `make bench` and `make curves` have left them, keeps what it needs of
them in docs/performance.json, and makes the section and docs/performance.svg of that. So both can be made again.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from tests.bench import plot
from tests.bench.report import CPU, ROWS, STREAM_CPU
from tests.bench.stage import ROOT

README = ROOT / "README.md"
KEPT = ROOT / "docs" / "performance.json"
PICTURE = ROOT / "docs" / "performance.svg"
BEGIN, END = "<!-- performance: made by python -m tests.bench.readme -->", "<!-- /performance -->"

_DIGITS = 4
_LATENCY, _IDLE = "added ms, 1 in flight, p50", "MiB idle"
_STREAM, _START = "KiB per open stream", "s from its start to the first answer"
#: How much more a ledger of ten million events may cost than one of ten.
_GROWTH_MAX = 1.1
#: How many times as much two workers are to serve as one.
_TIMES_MIN = 1.7

Data = Mapping[str, Any]

_HOW = """
Measured on {taken} by `make bench`, and on {curves_taken} by `make curves`, on {machine}. A turn of a loop with a
little arithmetic takes this Python {python_loop_ns:.0f} ns there. Each system has one core to itself, one system after
the other; clients, upstream and receiver are on the other core. Figures are medians of {rounds} rounds of one run, and
each measurement takes {seconds:g} s. Tollgate does all that it is for: a key, ten limits, an event on disk before the
answer's last byte, and its delivery.
"""
_HOW_CURVES = """
Points are medians of {rounds} rounds. Bodies come four at a time, streams ten at a time with an event each millisecond,
all else, where it is not said, with 64 in flight. Each of many tenants has four limits; they ask in turn, and of more
than 10,000 none asks twice. Ledgers hold the events of 20 tenants and four months; `GET /api/usage` asks for the last
thirty days of the largest tenant, by model, and asks this again and again: what it was told is remembered, and moved on
by what was recorded since. The first answer, and one after more than 10,000 requests, takes longer.
"""


_HOW_WORKERS = """
With 128 in flight, a request takes one worker {cpu:.0f} µs of CPU, and two workers {cpu_of_two:.0f} µs (`--workers 2`):
so two cores that have nothing else to do serve {times:.2f} times as much as one (goal: {goal}; {verdict}). Here they
also had clients, upstream and receiver to bear, and answered {per_second_of_two:,.0f} requests a second; one worker on
a core of its own answered {per_second:,.0f}.
"""


def kept(bench: Data, curves: Data) -> bytes:
    """What the section needs of both, in few digits."""
    systems = {
        name: {"version": of["version"], "lacks": of["lacks"], "figures": of["figures"]}
        for name, of in bench["systems"].items()
    }
    found = _rounded({"bench": dict(bench) | {"systems": systems}, "curves": curves})
    return orjson.dumps(found, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(of) for key, of in value.items()}
    if isinstance(value, list):
        return [_rounded(of) for of in value]
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value


def section(data: Data) -> str:
    """All that stands between the markers."""
    bench, curves = data["bench"], data["curves"]
    systems = {name: of for name, of in bench["systems"].items() if name != "direct"}
    paragraphs = [
        _prose(_HOW.format(**bench, curves_taken=curves["taken"])),
        "\n".join(_table(systems)),
        _prose("The others do less. " + " ".join(_lacks(systems))),
        "\n".join(_ratios(systems)),
        "The budget that was set before anything was built, and what became of it:",
        "\n".join(_budget(systems, curves["curves"])),
        f"![What Tollgate costs, and how that grows]({PICTURE.relative_to(ROOT)})",
        _prose(_HOW_CURVES.format(**curves)),
        _prose(_workers(curves["curves"]["workers"]["tollgate"])),
    ]
    return "\n\n".join([BEGIN, *paragraphs, END])


def _prose(words: str) -> str:
    return "\n".join(textwrap.wrap(words.strip(), 120, break_on_hyphens=False))


def _table(systems: Data) -> Iterator[str]:
    yield "| | " + " | ".join(f"{name} {of['version']}" for name, of in systems.items()) + " |"
    yield "|---|" + "---:|" * len(systems)
    for row in ROWS:
        values = (of["figures"][row.name] for of in systems.values())
        shown = ("" if value is None else f"{value:,.{row.digits}f}" for value in values)
        yield f"| {row.name} | {' | '.join(shown)} |"


def _lacks(systems: Data) -> Iterator[str]:
    for name, of in systems.items():
        if of["lacks"]:
            yield f"{name} was measured without {of['lacks']}."


def _ratios(systems: Data) -> Iterator[str]:
    others = [name for name in systems if name != "tollgate"]
    yield "| Tollgate's CPU time, times that of | " + " | ".join(others) + " |"
    yield "|---|" + "---:|" * len(others)
    for words, figure in (("per request, 64 in flight", CPU), ("per streamed event", STREAM_CPU)):
        values = (_ratio(systems, figure, name) for name in others)
        yield f"| {words} | {' | '.join('' if value is None else _times(value) for value in values)} |"


def _ratio(systems: Data, figure: str, name: str) -> float | None:
    """Tollgate's figure in those of another; None where that was not measured."""
    if name not in systems:
        return None
    found: float = systems["tollgate"]["figures"][figure] / systems[name]["figures"][figure]
    return found


def _times(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio >= 1 else f"1/{1 / ratio:.3g}"


def _budget(systems: Data, curves: Data) -> Iterator[str]:
    own = systems["tollgate"]["figures"]
    goals = [
        ("CPU per request, to nginx's", _ratio(systems, CPU, "nginx"), 6.0, "×"),
        ("CPU per request, to LiteLLM's", _ratio(systems, CPU, "litellm"), 1 / 100, "×"),
        ("CPU per request, to vllm-router's", _ratio(systems, CPU, "vllm-router"), 1 / 1.5, "×"),
        ("CPU per streamed event, to nginx's", _ratio(systems, STREAM_CPU, "nginx"), 2.2, "×"),
        ("CPU per streamed event, to LiteLLM's", _ratio(systems, STREAM_CPU, "litellm"), 1 / 30, "×"),
        ("added latency, 1 in flight, median", own[_LATENCY], 0.7, "ms"),
        ("memory, idle", own[_IDLE], 60.0, "MiB"),
        ("memory, each open stream", own[_STREAM], 32.0, "KiB"),
        ("from start to the first answer", own[_START], 1.0, "s"),
        _growth("CPU of a request", curves["ledger_size"]["a request"], "cpu_us"),
        _growth("time of `GET /api/usage`", curves["ledger_size"]["GET /api/usage"], "p50_us"),
    ]
    yield "| | goal | measured | |"
    yield "|---|---:|---:|---|"
    for words, value, most, unit in goals:
        if value is None:
            yield f"| {words} | ≤ {_amount(most, unit)} | not measured | |"
        else:
            verdict = "met" if value <= most else "**not met**"
            yield f"| {words} | ≤ {_amount(most, unit)} | {_amount(value, unit)} | {verdict} |"


def _workers(points: Sequence[Data]) -> str:
    one, two = points[0], points[-1]
    times = two["x"] * one["cpu_us"] / two["cpu_us"]
    verdict = "met" if times >= _TIMES_MIN else "**not met**"
    return _HOW_WORKERS.format(
        cpu=one["cpu_us"],
        cpu_of_two=two["cpu_us"],
        times=times,
        goal=_TIMES_MIN,
        verdict=verdict,
        per_second=one["per_second"],
        per_second_of_two=two["per_second"],
    )


def _growth(words: str, points: Sequence[Data], figure: str) -> tuple[str, float, float, str]:
    first, last = points[0], points[-1]
    words = f"{words} with {last['x']:,} events in the ledger, to that with {first['x']:,}"
    return words, last[figure] / first[figure], _GROWTH_MAX, "×"


def _amount(value: float, unit: str) -> str:
    return f"{_times(value)} ×" if unit == "×" else f"{value:.3g} {unit}"


def placed(readme: str, made: str) -> str:
    """README with this between the markers."""
    found = re.sub(f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: made, readme, flags=re.DOTALL)
    assert made in found, "README has lost its markers"
    return found


def picture(data: Data) -> str:
    return plot.draw(data["bench"], data["curves"]["curves"])


def main() -> None:
    measured = [ROOT / "var" / name for name in ("bench.json", "curves.json")]
    if all(file.exists() for file in measured):
        KEPT.parent.mkdir(exist_ok=True)
        KEPT.write_bytes(kept(*(orjson.loads(file.read_bytes()) for file in measured)))
    data = orjson.loads(KEPT.read_bytes())
    PICTURE.write_text(picture(data))
    README.write_text(placed(README.read_text(), section(data)))


if __name__ == "__main__":
    main()
