"""The figures as an SVG: a bar for each system, and a panel for each curve. On a ground of its own, for dark pages."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

_WIDTH, _HEIGHT, _COLUMNS = 320, 230, 3
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 22, 56, 44
_INK, _PALE, _GRID = "#1f2328", "#57606a", "#d8dee4"
_COLOURS = {"tollgate": "#0a58ca", "a request": "#0a58ca", "GET /api/usage": "#bc4c00"}
_OTHER = "#7d8590"

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Panel:
    """One curve: lines by their names, of points. The x axis is logarithmic, the y axis where it says so."""

    title: str
    across: str
    lines: Mapping[str, Points]
    is_log: bool = False

    @property
    def xs(self) -> list[float]:
        return sorted({x for points in self.lines.values() for x, _ in points})


@dataclass(slots=True)
class Axis:
    """Where values stand: `begin` and `end` are the pixels of the lowest and the highest tick.

    On a logarithmic one, 0 stands where 1 does.
    """

    ticks: Sequence[float]
    begin: float
    end: float
    is_log: bool = False
    _low: float = field(init=False)
    _span: float = field(init=False)

    def __post_init__(self) -> None:
        self._low = self._scaled(self.ticks[0])
        self._span = self._scaled(self.ticks[-1]) - self._low

    def at(self, value: float) -> float:
        part = (self._scaled(value) - self._low) / self._span if self._span else 0.5
        return self.begin + part * (self.end - self.begin)

    def _scaled(self, value: float) -> float:
        return math.log10(max(value, self.ticks[0] or 1.0)) if self.is_log else value


def draw(bench: Mapping[str, Any], curves: Mapping[str, Any]) -> str:
    """The whole picture."""
    panels = [
        _bars("CPU per request, 64 in flight, µs (log)", _figures(bench, "CPU µs per request, 64 in flight")),
        *map(_drawn, _panels(curves)),
    ]
    width, height = _COLUMNS * _WIDTH, -(-len(panels) // _COLUMNS) * _HEIGHT
    look = f'font-size="11" font-family="system-ui, sans-serif" fill="{_INK}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" {look}>',
        "<title>What Tollgate costs, and how that grows</title>",
        f'<rect width="{width}" height="{height}" rx="8" fill="#ffffff"/>',
    ]
    for number, panel in enumerate(panels):
        x, y = number % _COLUMNS * _WIDTH, number // _COLUMNS * _HEIGHT
        lines += [f'<g transform="translate({x} {y})">', *panel, "</g>"]
    return "\n".join([*lines, "</svg>", ""])


def _panels(curves: Mapping[str, Any]) -> Iterator[Panel]:
    def of(curve: str, figure: str, divisor: float = 1.0, *lines: str) -> dict[str, Points]:
        return {
            name: [(point["x"], point[figure] / divisor) for point in points]
            for name, points in curves[curve].items()
            if name in lines or not lines
        }

    flying, bodies = "requests in flight", "bytes of the request's body"
    yield Panel("CPU per request, µs", flying, of("in_flight", "cpu_us"))
    yield Panel("Latency in the median, ms (log)", flying, of("in_flight", "p50_us", 1e3), is_log=True)
    yield Panel("CPU per request, µs (log)", bodies, of("body_size", "cpu_us"), is_log=True)
    yield Panel("CPU per streamed event, µs", "events of the stream", of("stream_length", "cpu_us"))
    yield Panel("CPU per request, µs", "tenants who ask in turn", of("tenants", "cpu_us"))
    yield Panel("CPU per request, µs", "events in the ledger", of("ledger_size", "cpu_us", 1.0, "a request"))
    yield Panel("GET /api/usage, ms", "events in the ledger", of("ledger_size", "p50_us", 1e3, "GET /api/usage"))
    yield Panel("CPU per request, µs", "events that wait for the sink", of("backlog", "cpu_us"))


def _figures(bench: Mapping[str, Any], name: str) -> dict[str, float]:
    found = {system: of["figures"][name] for system, of in bench["systems"].items()}
    return {system: value for system, value in found.items() if value is not None}


def _bars(title: str, values: Mapping[str, float]) -> list[str]:
    axis = Axis(_decades(values.values()), 90, _WIDTH - 60, is_log=True)
    lines = [_text(14, 22, title, weight=600)]
    for number, (name, value) in enumerate(sorted(values.items(), key=lambda item: item[1])):
        y = _TOP + number * 38
        width = axis.at(value) - axis.begin
        lines += [
            _text(axis.begin - 8, y + 14, name, anchor="end"),
            f'<rect x="{axis.begin:.0f}" y="{y}" width="{width:.1f}" height="20" fill="{_COLOURS.get(name, _OTHER)}"/>',
            _text(axis.at(value) + 6, y + 14, _short(value)),
        ]
    return lines


def _drawn(panel: Panel) -> list[str]:
    values = [value for points in panel.lines.values() for _, value in points]
    across = Axis(panel.xs, _LEFT, _WIDTH - _RIGHT, is_log=True)
    up = Axis(_decades(values) if panel.is_log else _steps(max(values)), _HEIGHT - _BOTTOM, _TOP, is_log=panel.is_log)
    lines = [_text(14, 22, panel.title, weight=600)]
    for tick in up.ticks:
        y = up.at(tick)
        lines.append(f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke="{_GRID}"/>')
        lines.append(_text(_LEFT - 6, y + 4, _short(tick), anchor="end", fill=_PALE))
    lines += [_text(across.at(x), _HEIGHT - _BOTTOM + 16, _short(x), anchor="middle", fill=_PALE) for x in panel.xs]
    lines.append(_text(_WIDTH - _RIGHT, _HEIGHT - 10, panel.across, anchor="end", fill=_PALE))
    for number, (name, points) in enumerate(panel.lines.items()):
        colour = _COLOURS.get(name, _OTHER)
        places = [f"{across.at(x):.1f},{up.at(value):.1f}" for x, value in points]
        lines.append(f'<polyline points="{" ".join(places)}" fill="none" stroke="{colour}" stroke-width="2"/>')
        lines += ['<circle cx="{}" cy="{}" r="3" fill="{}"/>'.format(*place.split(","), colour) for place in places]
        if len(panel.lines) > 1:
            lines.append(_text(_LEFT + number * 80, 42, f"● {name}", fill=colour))
    return lines


def _steps(most: float) -> list[float]:
    """From 0 to beyond the largest value, in three to five even steps."""
    scale = 10 ** math.floor(math.log10(most))
    step = next(step * scale for step in (0.25, 0.5, 1.0, 2.0, 2.5) if step * scale * 5 >= most)
    return [number * step for number in range(math.ceil(most / step) + 1)]


def _decades(values: Collection[float]) -> list[float]:
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return [10.0**power for power in range(low, max(high, low + 1) + 1)]


def _short(value: float) -> str:
    """0.25, 16, 4096, 10k, 1.5M."""
    if value >= 1e6:
        return f"{value / 1e6:.3g}M"
    return f"{value / 1e3:.3g}k" if value >= 1e4 else f"{value:.4g}"


def _text(x: float, y: float, words: str, *, anchor: str = "start", fill: str = _INK, weight: int = 400) -> str:
    bold = f' font-weight="{weight}"' if weight != 400 else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}"{bold}>{escape(words)}</text>'
