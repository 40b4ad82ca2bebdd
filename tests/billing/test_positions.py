"""Every key of a document is found, and on its line: `tomllib` says which keys there are."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.billing.positions import Path as KeyPath
from proxy.billing.positions import Positions

ROOT = Path(__file__).parent.parent.parent

DOCUMENT = '''\
# a comment with [brackets] and x = 1
a = 1
"q.x" . b = "x # y" # z
[ m . n ]
k = """
multi ] } "" """
l = [1, 2, # one, ]
  {a = 3, b = [4,
5]},
]
'e f' = 1979-05-27 07:32:00
[[p]]
x = ''
[p.sub]
y = [1979-05-27 07:32:00, '''
DOCUMENT += "'''z]''''',\n\"\\\"]\"]\n"
DOCUMENT += """\
[[p]]
[[p.cards]]
price = {t = "x", tiers = [
  {u = 1},
  {u.v = 2}, {},
]}
[[p.cards]]
z = 'lit'
[p.cards.deep]
w = true
[m]
o.p = 1
o.q = 2
"""

LINES = {
    ("a",): 2,
    ("q.x", "b"): 3,
    ("m", "n", "k"): 5,
    ("m", "n", "l", 2): 8,
    ("m", "n", "l", 2, "b", 1): 9,
    ("m", "n", "e f"): 11,
    ("p", 0): 12,
    ("p", 0, "sub", "y", 2): 16,
    ("p", 1): 17,
    ("p", 1, "cards", 0, "price"): 19,
    ("p", 1, "cards", 0, "price", "tiers", 1, "u", "v"): 21,
    ("p", 1, "cards", 1, "z"): 24,
    ("p", 1, "cards", 1, "deep", "w"): 26,
    ("m", "o", "q"): 29,
}


def paths_of(value: object, path: KeyPath = ()) -> set[KeyPath]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {one for key, part in inner for one in ({(*path, key)} | paths_of(part, (*path, key)))}


@pytest.mark.parametrize(
    "text",
    [
        DOCUMENT,
        DOCUMENT.replace("\n", "\r\n"),
        "",
        (ROOT / "pyproject.toml").read_text(),
        *(one.read_text() for one in sorted((ROOT / "config").glob("*.toml"))),
    ],
)
def test_all_keys_are_found_and_no_others(text: str) -> None:
    assert Positions(text).paths == paths_of(tomllib.loads(text))


@pytest.mark.parametrize(("path", "line"), LINES.items())
def test_keys_stand_where_they_do(path: KeyPath, line: int) -> None:
    assert Positions(DOCUMENT).line(path) == line


def test_a_key_that_is_missing_stands_where_its_table_does() -> None:
    assert Positions(DOCUMENT).line(("p", 1, "cards", 0, "amount")) == 18
    assert Positions(DOCUMENT).line(("nothing", "there")) == 1


names = st.text("ab-_ .\"'#\\é", min_size=1, max_size=4)
scalars = st.one_of(st.integers(-9, 9), st.booleans(), st.text("ab\"'#]},\\\n\té", max_size=6))
values = st.recursive(
    scalars, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3))
)


def written(value: object) -> str:
    """As TOML, on as few lines as it can be."""
    match value:
        case bool():
            return str(value).lower()
        case int():
            return str(value)
        case str():
            return quoted(value)
        case list():
            return f"[ {', '.join(map(written, value))}\n]"
        case dict():
            return "{" + ", ".join(f"{quoted(key)} = {written(part)}" for key, part in value.items()) + "}"
    raise AssertionError


def quoted(text: str) -> str:
    for char, escape in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\t", "\\t")):
        text = text.replace(char, escape)
    return f'"{text}"'


@given(st.dictionaries(names, values, max_size=4), st.lists(st.dictionaries(names, values, max_size=2), max_size=3))
def test_whatever_is_written_is_found(top: dict[str, object], tables: list[dict[str, object]]) -> None:
    lines = [f"{quoted(key)} = {written(value)} # x" for key, value in top.items()]
    for table in tables:
        lines += ["[[ tables ]]", *(f"{quoted(key)}={written(value)}" for key, value in table.items())]
    text = "\n".join(lines)
    assert Positions(text).paths == paths_of(tomllib.loads(text))
