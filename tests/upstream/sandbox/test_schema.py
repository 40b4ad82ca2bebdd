from __future__ import annotations

from typing import Any

import jsonschema
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.upstream.sandbox.schema import instance

Schema = dict[str, Any]

_LEAVES: st.SearchStrategy[Schema] = st.one_of(
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": ["string", "null"]}, {}]),
    st.builds(lambda value: {"const": value}, st.text() | st.integers(-9, 9) | st.none()),
    st.builds(lambda values: {"enum": values}, st.lists(st.text(), min_size=1, max_size=3)),
    st.builds(
        lambda least, more: {"type": "string", "minLength": least, "maxLength": least + more},
        st.integers(0, 30),
        st.integers(0, 30),
    ),
    st.builds(
        lambda least, more: {"type": "integer", "minimum": least, "maximum": least + more},
        st.integers(-(10**6), 10**6),
        st.integers(0, 50),
    ),
    st.builds(
        lambda above, more: {"type": "number", "exclusiveMinimum": above, "exclusiveMaximum": above + more},
        st.integers(-1000, 1000),
        st.floats(0.01, 50),
    ),
    st.builds(
        lambda step, least: {"type": "integer", "multipleOf": step, "minimum": least},
        st.integers(1, 9),
        st.integers(-99, 99),
    ),
)


def _grow(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    properties = st.dictionaries(st.text(max_size=8), inner, max_size=4)
    return st.one_of(
        st.builds(lambda fields: {"type": "object", "properties": fields, "required": list(fields)}, properties),
        st.builds(lambda fields: {"type": "object", "properties": fields, "additionalProperties": False}, properties),
        st.builds(lambda items, least: {"type": "array", "items": items, "minItems": least}, inner, st.integers(0, 3)),
        st.builds(lambda options: {"anyOf": options}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda one: {"allOf": [one]}, inner),
    )


@settings(deadline=None)
@given(st.recursive(_LEAVES, _grow, max_leaves=8))
def test_what_is_made_for_a_schema_validates_against_it(schema: Schema) -> None:
    made = instance(schema)
    jsonschema.validate(made, schema)
    assert instance(schema) == made
    orjson.dumps(made)


@settings(deadline=None)
@given(st.recursive(_LEAVES, _grow, max_leaves=4))
def test_a_reference_into_defs_is_followed(schema: Schema) -> None:
    whole = {
        "$defs": {"a/b": schema},
        "type": "object",
        "properties": {"x": {"$ref": "#/$defs/a~1b"}},
        "required": ["x"],
    }
    jsonschema.validate(instance(whole), whole)


def test_the_plain_types_have_the_values_that_are_documented() -> None:
    kinds = ["string", "integer", "number", "boolean", "null", "array", "object"]
    assert [instance({"type": kind}) for kind in kinds] == ["sandbox", 1, 1.5, True, None, ["sandbox"], {}]


_NODE: Schema = {"$ref": "#/$defs/N"}


@pytest.mark.parametrize(
    ("properties", "required"),
    [
        ({"next": {"anyOf": [_NODE, {"type": "null"}]}}, ["next"]),
        ({"children": {"type": "array", "items": _NODE}}, ["children"]),
        ({"left": _NODE, "right": _NODE}, []),
    ],
)
def test_a_schema_that_contains_itself_ends(properties: Schema, required: list[str]) -> None:
    node = {"type": "object", "properties": properties, "required": required}
    schema = {"$defs": {"N": node}, **_NODE}
    jsonschema.validate(instance(schema), schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$ref": "https://example.com/remote.json"},
        {"type": "object", "required": ["endless"], "properties": {"endless": {"$ref": "#"}}},
        {"type": "array", "minItems": 10**9, "items": {"type": "array", "minItems": 10**9, "items": {}}},
        {"type": "string", "minLength": 10**12},
        {"type": "integer", "minimum": 1e308, "multipleOf": 1e-308},
        {"type": "object", "properties": [], "required": 7},
        {"allOf": [{"$ref": "#"}, 3]},
        {"enum": []},
        True,
        None,
    ],
)  # fmt: skip
def test_a_schema_that_nothing_fits_still_costs_little_and_gives_json(schema: Any) -> None:
    assert len(orjson.dumps(instance(schema))) < 100_000


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.integers(-(2**63), 2**63),
        lambda inner: st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "properties", "items", "enum", "anyOf", "allOf", "$ref", "required", "minItems",
                             "minimum", "exclusiveMaximum", "multipleOf", "maxLength", "prefixItems", "format"]),
            inner | st.sampled_from(["object", "array", "integer", "number", "string"]),
            max_size=5,
        ),
        max_leaves=10,
    )
)  # fmt: skip
def test_nonsense_in_place_of_a_schema_gives_some_json(schema: Any) -> None:
    orjson.dumps(instance(schema))
