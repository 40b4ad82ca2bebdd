"""The smallest value that fits a JSON schema, of the kind that structured outputs and tools use.

Known: `$ref` within the document, `const`, `enum`, `anyOf`, `oneOf`, `allOf`, the seven types with their bounds,
`format` and `prefixItems`. Not known: `pattern`, `not`, `uniqueItems`, conditionals and remote references.
"""

from __future__ import annotations

from typing import Any, TypeGuard

Json = dict[str, Any]

# Bounds for what a schema can cost. A value that would pass them is null where it is cut, and so may not fit.
DEPTH_MAX = 40
NODES_MAX = 5_000
ITEMS_MAX = 64
CHARACTERS_MAX = 1_000
NUMBER_MAX = 2**53  # what every JSON reader holds exactly

_FORMATS = {
    "date-time": "2025-01-01T00:00:00Z",
    "date": "2025-01-01",
    "time": "00:00:00Z",
    "duration": "P1D",
    "email": "sandbox@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def instance(schema: Any) -> Any:
    """A value that fits `schema`, the same one each time."""
    return _Maker(schema).make(schema, ())


class _Maker:
    """One walk through a schema. `path` holds the references being expanded: a second visit would not end."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._nodes_left = NODES_MAX

    def make(self, schema: Any, path: tuple[str, ...], depth: int = 0) -> Any:
        self._nodes_left -= 1
        if self._nodes_left < 0 or depth > DEPTH_MAX:
            return None
        if not isinstance(schema, dict):
            return "sandbox"
        if "const" in schema:
            return schema["const"]
        if _filled_list(schema.get("enum")):
            return schema["enum"][0]
        if isinstance(reference := schema.get("$ref"), str):
            return self.make(self._resolve(reference), (*path, reference), depth + 1)
        for word in ("anyOf", "oneOf"):
            if _filled_list(options := schema.get(word)):
                ending = (option for option in options if not _returns(option, path))
                return self.make(next(ending, options[0]), path, depth + 1)
        if _filled_list(schema.get("allOf")):
            return self.make(self._merge(schema), path, depth + 1)
        return self._typed(schema, path, depth)

    def _typed(self, schema: Json, path: tuple[str, ...], depth: int) -> Any:
        kind = schema.get("type", "object" if "properties" in schema else "string")
        match kind[0] if _filled_list(kind) else kind:
            case "object":
                return self._object(schema, path, depth)
            case "array":
                return self._array(schema, path, depth)
            case "integer":
                return int(_number(schema, 1, 1))
            case "number":
                return _number(schema, 1.5, None)
            case "boolean":
                return True
            case "null":
                return None
            case _:
                return _string(schema)

    def _object(self, schema: Json, path: tuple[str, ...], depth: int) -> Json:
        """The required properties; without that list, all that do not lead back to where we are."""
        properties = schema.get("properties")
        if not isinstance(properties, dict):
            properties = {}
        names = schema.get("required")
        if not isinstance(names, list):
            names = [name for name, child in properties.items() if not _returns(child, path)]
        return {name: self.make(properties.get(name), path, depth + 1) for name in names if isinstance(name, str)}

    def _array(self, schema: Json, path: tuple[str, ...], depth: int) -> list[Any]:
        if _filled_list(first := schema.get("prefixItems")):
            return [self.make(child, path, depth + 1) for child in first]
        least, most = _bound(schema, "minItems", 0), _bound(schema, "maxItems", ITEMS_MAX)
        items = schema.get("items", {})
        wanted = least if _returns(items, path) else max(1, least)
        return [self.make(items, path, depth + 1) for _ in range(min(wanted, most, ITEMS_MAX))]

    def _merge(self, schema: Json) -> Json:
        merged: Json = {}
        for part in schema["allOf"]:
            found = self._resolve(part["$ref"]) if isinstance(part, dict) and "$ref" in part else part
            if isinstance(found, dict):
                merged = _joined(merged, found)
        return _joined(merged, {name: value for name, value in schema.items() if name != "allOf"})

    def _resolve(self, reference: Any) -> Any:
        """The schema at `#/$defs/Name`, or {} when there is none."""
        found = self._root
        for step in str(reference).removeprefix("#").split("/")[1:]:
            found = found.get(step.replace("~1", "/").replace("~0", "~"), {}) if isinstance(found, dict) else {}
        return found


def _joined(one: Json, two: Json) -> Json:
    joined = {**one, **two}
    if isinstance(one.get("properties"), dict) and isinstance(two.get("properties"), dict):
        joined["properties"] = {**one["properties"], **two["properties"]}
    if isinstance(one.get("required"), list) and isinstance(two.get("required"), list):
        joined["required"] = [*one["required"], *two["required"]]
    return joined


def _returns(schema: Any, path: tuple[str, ...]) -> bool:
    return isinstance(schema, dict) and schema.get("$ref") in path


def _filled_list(value: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list) and bool(value)


def _bound(schema: Json, name: str, default: int) -> int:
    value = schema.get(name)
    return value if isinstance(value, int) else default


def _string(schema: Json) -> str:
    text = _FORMATS.get(str(schema.get("format")), "sandbox")
    least, most = _bound(schema, "minLength", 0), _bound(schema, "maxLength", CHARACTERS_MAX)
    return text.ljust(min(least, CHARACTERS_MAX), ".")[: max(most, 0)]


def _number(schema: Json, preferred: float, step: int | None) -> float:
    """`preferred`, or a number close to one of the bounds. `step` is what a whole number moves by."""
    bounds = {name: value for name, value in schema.items() if type(value) in (int, float)}
    stride = bounds.get("multipleOf", 0)
    if stride <= 0 or (step and type(stride) is not int):
        stride = step or 0
    candidates = [preferred if stride in (0, step) else stride]
    ends = [bounds[name] for name in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum") if name in bounds]
    if stride:
        candidates += [end // stride * stride + move for end in ends for move in (0, stride, -stride)]
    else:
        candidates += [sum(ends) / len(ends) if ends else 0, *(end + move for end in ends for move in (0, 1, -1))]
    return next((value for value in candidates if _within(value, bounds)), preferred)


def _within(value: float, bounds: Json) -> bool:
    return (
        abs(value) <= NUMBER_MAX
        and bounds.get("minimum", value) <= value <= bounds.get("maximum", value)
        and ("exclusiveMinimum" not in bounds or bounds["exclusiveMinimum"] < value)
        and ("exclusiveMaximum" not in bounds or value < bounds["exclusiveMaximum"])
    )
