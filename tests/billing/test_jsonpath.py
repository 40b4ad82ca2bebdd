from __future__ import annotations

import pytest

from proxy.billing.jsonpath import lookup, steps

DATA = {"tokens": "52", "usage": {"total": 7, "by kind": [1, {"n": 2}]}, "none": None}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("$.tokens", "52"),
        ("$['tokens']", "52"),
        ('$["usage"].total', 7),
        ("$.usage['by kind'][0]", 1),
        ("$.usage['by kind'][1].n", 2),
        ("$.usage['by kind'][2]", None),
        ("$.none", None),
        ("$.nothing", None),
        ("$.tokens.more", None),
        ("$.tokens[0]", None),
        ("$.usage[0]", None),
    ],
)
def test_a_path_leads_to_what_stands_there(path: str, value: object) -> None:
    assert lookup(path, DATA) == value


@pytest.mark.parametrize(
    "path", ["", "$", "tokens", ".tokens", "$tokens", "$..tokens", "$.*", "$.a[*]", "$.a[-1]", "$."]
)
def test_other_paths_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match="no JSONPath of names and indices"):
        steps(path)
