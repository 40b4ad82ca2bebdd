"""What README says of performance is what was measured, and the picture too."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import orjson
import pytest

from tests.bench import readme
from tests.bench.plot import draw
from tests.bench.report import ROWS


@pytest.fixture
def data() -> Any:
    return orjson.loads(readme.KEPT.read_bytes())


def test_the_section_is_made_of_the_figures_that_are_kept(data: Any) -> None:
    text = readme.README.read_text()
    assert readme.placed(text, readme.section(data)) == text


def test_the_picture_is_made_of_them(data: Any) -> None:
    assert readme.PICTURE.read_text() == readme.picture(data)


def test_what_is_kept_has_all_that_is_measured(data: Any) -> None:
    assert readme.kept(data["bench"], data["curves"]) == readme.KEPT.read_bytes()
    for system in data["bench"]["systems"].values():
        assert [*system["figures"]] == [row.name for row in ROWS]


def test_what_was_not_met_or_measured_is_said(data: Any) -> None:
    systems = data["bench"]["systems"]
    systems.pop("litellm", None)
    systems["tollgate"]["figures"] |= {"MiB idle": 61.0, "KiB per open stream": 32.0}
    made = readme.section(data)
    assert "| memory, idle | ≤ 60 MiB | 61 MiB | **not met** |" in made
    assert "| memory, each open stream | ≤ 32 KiB | 32 KiB | met |" in made
    assert "| CPU per request, to LiteLLM's | ≤ 1/100 × | not measured | |" in made


def test_a_panel_is_well_formed_whatever_the_scale() -> None:
    points = [{"x": x, "cpu_us": y, "p50_us": y} for x, y in ((0, 0.3), (100, 3.0), (20_000_000, 40_000.0))]
    curves = ["in_flight", "body_size", "stream_length", "tenants", "backlog"]
    lines: dict[str, Any] = {name: {"tollgate": points, "nginx": points} for name in curves}
    lines["ledger_size"] = {"a request": points, "GET /api/usage": points}
    systems = {"a <b> & c": {"figures": {"CPU µs per request, 64 in flight": 5.0}}}
    root = ElementTree.fromstring(draw({"systems": systems}, lines))
    assert {"a <b> & c", "20M", "100k"} <= {element.text for element in root.iter() if element.text}
