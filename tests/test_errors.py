"""The tree of what can go wrong, and how it is answered."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from proxy import errors
from proxy.errors import MethodNotAllowed, ProxyError, TollgateError, error_answer

PROXY = Path(errors.__file__).parent


def below(root: type[TollgateError]) -> Iterator[type[TollgateError]]:
    for one in root.__subclasses__():
        if not one.__name__.startswith("_"):
            yield one
        yield from below(one)


def parent_of(one: type[TollgateError]) -> str:
    return next(base.__name__ for base in one.__mro__[1:] if not base.__name__.startswith("_"))


def drawn() -> dict[str, tuple[str, int | None]]:
    """The tree of the docstring: parent and status of each name."""
    assert errors.__doc__ is not None
    found: dict[str, tuple[str, int | None]] = {}
    path: list[str] = []
    for line in errors.__doc__.splitlines():
        match = re.match(r"((?:│   |    )*)(?:├── |└── )(\w+)\s*(\d{3})?", line)
        if match:
            depth = len(match[1]) // 4
            path[depth:] = [match[2]]
            found[match[2]] = ("TollgateError" if depth == 0 else path[depth - 1], int(match[3]) if match[3] else None)
    return found


PROXY_ERRORS = [ProxyError, *(one for one in below(ProxyError) if issubclass(one, ProxyError))]


def made(kind: type[ProxyError], message: str = "what is wrong") -> ProxyError:
    if issubclass(kind, errors.RateLimited):
        return kind(message, kind.type, retry_after_s=7)
    return kind(message, "GET, POST") if issubclass(kind, MethodNotAllowed) else kind(message)


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    assert {name: parent for name, (parent, _) in drawn().items()} == {
        one.__name__: parent_of(one) for one in below(TollgateError)
    }


def test_the_statuses_in_the_docstring_are_those_of_the_answers() -> None:
    statuses = {name: status for name, (_, status) in drawn().items()}
    for kind in below(ProxyError):
        assert issubclass(kind, ProxyError)
        if kind.__name__ != "UpstreamError":  # its children have their own
            assert kind.status == statuses[kind.__name__], kind.__name__


@pytest.mark.parametrize("kind", PROXY_ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_is_answered_in_openais_shape(kind: type[ProxyError]) -> None:
    status, headers, body = error_answer(made(kind, 'a "quoted" word ü'))
    assert status == kind.status
    answer = orjson.loads(body)
    assert answer == {
        "error": {"message": 'a "quoted" word ü', "type": kind.type, "param": None, "code": kind.code},
    }
    names = [name for name, _ in headers]
    assert len(names) == len(set(names))
    assert all(name == name.lower() for name in names)
    assert dict(headers)[b"content-type"] == b"application/json"
    assert dict(headers)[b"content-length"] == b"%d" % len(body)


@pytest.mark.parametrize("kind", PROXY_ERRORS, ids=lambda kind: kind.__name__)
def test_the_type_says_whose_fault_it_is(kind: type[ProxyError]) -> None:
    error = made(kind)
    assert isinstance(error.status, int)
    if error.status == 429:  # OpenAI's own types of these
        assert error.type in ("requests", "insufficient_quota")
        return
    assert (error.type == "invalid_request_error") == (error.status < 500)
    assert error.type in ("invalid_request_error", "server_error", "upstream_error")


def test_an_error_can_name_the_field_and_a_code_of_its_own() -> None:
    error = errors.InvalidRequest("no", param="model", code="missing")
    assert orjson.loads(error_answer(error)[2])["error"] == {
        "message": "no",
        "type": "invalid_request_error",
        "param": "model",
        "code": "missing",
    }
    assert errors.InvalidRequest.code is None


def test_who_should_come_back_later_is_told_when() -> None:
    for kind in (errors.LedgerUnavailable, errors.PoolExhausted):
        assert int(dict(made(kind).headers())[b"retry-after"]) > 0
    assert dict(made(errors.RateLimited).headers())[b"retry-after"] == b"7"
    assert dict(made(errors.QuotaExceeded).headers())[b"x-should-retry"] == b"false"
    assert dict(made(errors.MethodNotAllowed).headers())[b"allow"] == b"GET, POST"
    assert dict(made(errors.Unauthenticated).headers())[b"www-authenticate"] == b"Bearer"


@pytest.mark.parametrize("kind", [errors.BodyTimeout, errors.BodyTooLarge, errors.UnsupportedEncoding])
def test_a_body_that_was_not_read_ends_the_connection(kind: type[ProxyError]) -> None:
    assert dict(made(kind).headers())[b"connection"] == b"close"


def test_what_a_sink_said_is_kept() -> None:
    error = errors.SinkUnavailable("503 busy", retry_after_s=1.5)
    assert (error.words, error.retry_after_s, str(error)) == ("503 busy", 1.5, "503 busy")


@pytest.mark.parametrize("module", sorted(PROXY.rglob("*.py")), ids=lambda path: str(path.relative_to(PROXY)))
def test_nothing_is_raised_without_words(module: Path) -> None:
    names = {one.__name__ for one in below(TollgateError)}
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Raise) and node.exc is not None:
            call = node.exc
            target = call.func if isinstance(call, ast.Call) else call
            if isinstance(target, ast.Name) and target.id in names:
                assert isinstance(call, ast.Call), f"line {node.lineno}"
                assert call.args, f"line {node.lineno}"
                first = call.args[0]
                assert not (isinstance(first, ast.Constant) and not first.value), f"line {node.lineno}"
