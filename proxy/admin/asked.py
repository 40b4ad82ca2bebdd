"""What a request to the admin API asks: its path's parts and its query or body, read strictly and by one model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn, get_origin
from urllib.parse import parse_qsl

from pydantic import ValidationError

from proxy.admin.operation import Asked, Operation
from proxy.admin.problem import faults_of
from proxy.errors import WrongFields, WrongInput
from proxy.web.usage import with_plus

_NAME_SHOWN_MAX = 100
_INSTANTS = ("from", "to")


def from_query(operation: Operation[Any, Any], path: Mapping[str, str], query: bytes) -> Asked:
    """Raises `WrongInput`, which names the parameters."""
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=1_000)
    except ValueError:
        raise WrongInput("the query must be UTF-8, percent-encoded, with at most 1000 parameters", "query") from None
    given: dict[str, Any] = {}
    for name, value in pairs:
        _check_name(operation, name, "parameter")
        if _is_list(operation, name):
            given.setdefault(name, []).append(value)
        elif name in given:
            raise WrongInput(f"{name} stands in the query twice", name)
        else:
            given[name] = with_plus(value) if name in _INSTANTS else value
    with _told():
        asked: Asked = operation.takes.model_validate({**given, **path})
    return asked


def from_body(operation: Operation[Any, Any], path: Mapping[str, str], body: bytes) -> Asked:
    """Raises `WrongInput`, which names the members."""
    given = _object(body) if body.strip() else {}
    for name in given:
        _check_name(operation, name, "member")
    try:  # not by orjson, which knows no large integers
        document = json.dumps({**given, **path}, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise WrongInput("the body has half a character in it, a lone surrogate", "body") from None
    with _told():
        asked: Asked = operation.takes.model_validate_json(document, strict=True)
    return asked


@contextmanager
def _told() -> Iterator[None]:
    """Here alone it is the request that does not fit its model; elsewhere that is a fault of ours."""
    try:
        yield
    except ValidationError as error:
        raise WrongFields(faults_of(error)) from None


def _object(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body.decode(), object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise WrongInput(f"the body is not valid JSON in UTF-8: {error}", "body") from None
    if not isinstance(document, dict):
        raise WrongInput("the body must be a JSON object", "body")
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in pairs:
        if name in made:
            raise WrongInput(f"{name[:_NAME_SHOWN_MAX]!r} stands in one object twice", name[:_NAME_SHOWN_MAX])
        made[name] = value
    return made


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _check_name(operation: Operation[Any, Any], name: str, what: str) -> None:
    known = [one for one in operation.fields if one not in operation.in_path]
    if name not in known:
        shown = name[:_NAME_SHOWN_MAX]
        there_are = f"there are {', '.join(known)}" if known else "there is none"
        raise WrongInput(f"{shown!r} is no {what} of this; {there_are}", shown)


def _is_list(operation: Operation[Any, Any], name: str) -> bool:
    return get_origin(operation.takes.model_fields[operation.fields[name]].annotation) is list
