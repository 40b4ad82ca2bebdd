"""What OpenMeter v3 and Konnect describe of reading events and meters back: of questions, and of answers.

The excerpts hold the three operations with all the schemas that these need, without descriptions and examples.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from tests.delivery.contract import load

OPENMETER = Path(__file__).with_name("openmeter-v3-reading.yaml")
KONNECT = Path(__file__).with_name("konnect-v3-reading.yaml")
DOCUMENTS = (OPENMETER, KONNECT)

EVENTS = ("/openmeter/events", "get")
METERS = ("/openmeter/meters", "get")
QUERY = ("/openmeter/meters/{meterId}/query", "post")
OPERATIONS = (EVENTS, METERS, QUERY)

_PROSE = ("description", "example", "examples", "title", "summary", "tags")
_DEEP = re.compile(r"(\w+)((?:\[\w+\])+)")

Operation = tuple[str, str]


def faults_of_parameters(
    operation: Operation, given: Mapping[str, str], documents: tuple[Path, ...] = DOCUMENTS
) -> list[str]:
    """What is wrong with a query string, by any of the descriptions; one that they do not have is a fault too."""
    return [fault for path in documents for fault in _faults_of_parameters(path, operation, given)]


def faults_of_question(operation: Operation, question: object, documents: tuple[Path, ...] = DOCUMENTS) -> list[str]:
    """What is wrong with a request's body."""
    where = (*_steps(operation), "requestBody", "content", "application/json", "schema")
    return [fault for path in documents for fault in _faults(path, where, question)]


def faults_of_answer(
    operation: Operation, answer: object, documents: tuple[Path, ...] = DOCUMENTS, *, status: str = "200"
) -> list[str]:
    """What is wrong with the body of a 200, or of a 201."""
    where = (*_steps(operation), "responses", status, "content", "application/json", "schema")
    return [fault for path in documents for fault in _faults(path, where, answer)]


def excerpt(whole: dict[str, Any], operations: tuple[Operation, ...] = OPERATIONS) -> dict[str, Any]:
    """The operations of a whole document, with all that they refer to."""
    paths: dict[str, Any] = {}
    for path, method in operations:
        operation = whole["paths"][path][method]
        kept = {key: operation[key] for key in ("parameters", "requestBody") if key in operation}
        status = next(one for one in ("200", "201", "204") if one in operation["responses"])
        content = operation["responses"][status].get("content", {}).get("application/json")
        kept["responses"] = {
            status: {"content": {"application/json": {"schema": content["schema"]}}} if content else {}
        }
        paths.setdefault(path, {})[method] = _terse(kept)
    return {"paths": paths, "components": _referred(whole, _references(paths))}


def excerpt_of_schemas(whole: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Schemas of a whole document, with all that they refer to."""
    return {"components": _referred(whole, (("schemas", name) for name in names))}


def faults_of_schema(path: Path, name: str, instance: object) -> list[str]:
    """What is wrong with something that a schema describes."""
    return [*_faults(path, ("components", "schemas", name), instance)]


def _referred(whole: dict[str, Any], wanted: Iterable[tuple[str, str]]) -> dict[str, Any]:
    found: dict[str, dict[str, Any]] = {}
    waiting = [*wanted]
    while waiting:
        kind, name = waiting.pop()
        if name not in found.setdefault(kind, {}):
            found[kind][name] = _terse(whole["components"][kind][name])
            waiting += _references(found[kind][name])
    return {kind: dict(sorted(found[kind].items())) for kind in sorted(found)}


def _terse(part: Any) -> Any:
    """Without prose, which is most of it. A property that is called like a piece of prose stays."""
    if isinstance(part, list):
        return [_terse(item) for item in part]
    if not isinstance(part, dict):
        return part
    return {
        key: {name: _terse(schema) for name, schema in value.items()} if key == "properties" else _terse(value)
        for key, value in part.items()
        if key not in _PROSE and not key.startswith("x-")
    }


def _references(part: Any) -> Iterator[tuple[str, str]]:
    if isinstance(part, dict):
        for key, value in part.items():
            if key == "$ref":
                yield tuple(value.removeprefix("#/components/").split("/"))
            else:
                yield from _references(value)
    elif isinstance(part, list):
        for item in part:
            yield from _references(item)


def _faults_of_parameters(path: Path, operation: Operation, given: Mapping[str, str]) -> Iterator[str]:
    known = dict(_parameters(path, operation))
    for name, value in _nested(given).items():
        if name not in known:
            yield f"{path.stem}: there is no parameter {name}"
        else:
            yield from _faults(path, known[name], value)


def _parameters(path: Path, operation: Operation) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The names of the parameters, and where their schemas stand."""
    where = _steps(operation)
    document = _document(path)
    for index, parameter in enumerate(document["paths"][operation[0]][operation[1]]["parameters"]):
        if "$ref" in parameter:
            name = parameter["$ref"].rpartition("/")[2]
            found = document["components"]["parameters"][name]
            yield found["name"], ("components", "parameters", name, "schema")
        else:
            yield parameter["name"], (*where, "parameters", str(index), "schema")


def _nested(given: Mapping[str, str]) -> dict[str, Any]:
    """`filter[time][gte]=x` as `{"filter": {"time": {"gte": "x"}}}` (deepObject). What is only digits is a number."""
    nested: dict[str, Any] = {}
    for written, value in given.items():
        deep = _DEEP.fullmatch(written)
        steps = [deep[1], *re.findall(r"\[(\w+)\]", deep[2])] if deep else [written]
        inner = nested
        for step in steps[:-1]:
            inner = inner.setdefault(step, {})
        inner[steps[-1]] = int(value) if steps[0] == "page" and value.isdigit() else value
    return nested


def _faults(path: Path, where: tuple[str, ...], instance: object) -> Iterator[str]:
    for fault in _validator(path, where).iter_errors(instance):
        yield f"{path.stem}: {fault.json_path}: {fault.message}"


@cache
def _validator(path: Path, where: tuple[str, ...]) -> Draft202012Validator:
    root = f"urn:{path.stem}"
    registry: Registry[Any] = Registry().with_resource(root, DRAFT202012.create_resource(_document(path)))
    pointer = "/".join(step.replace("~", "~0").replace("/", "~1") for step in where)
    schema = {"$ref": f"{root}#/{pointer}"}
    return Draft202012Validator(schema, registry=registry, format_checker=FormatChecker())


@cache
def _document(path: Path) -> dict[str, Any]:
    nullable: dict[str, Any] = _with_null(load(path))
    return nullable


def _with_null(part: Any) -> Any:
    """`nullable`, which OpenAPI 3.0 has, in the words of JSON Schema."""
    if isinstance(part, list):
        return [_with_null(item) for item in part]
    if not isinstance(part, dict):
        return part
    inner = {key: _with_null(value) for key, value in part.items() if key != "nullable"}
    return {"anyOf": [inner, {"type": "null"}]} if part.get("nullable") is True else inner


def _steps(operation: Operation) -> tuple[str, ...]:
    return "paths", *operation
