from __future__ import annotations

import sqlite3

import pytest

from proxy.admin.keys import NewKey
from proxy.admin.operation import Answer, Asked, Context, Page, operation, page_of
from proxy.admin.operations import OPERATIONS
from proxy.settings import Settings


class Question(Asked):
    name: str


class Told(Answer):
    said: str


@operation("GET", "/admin/{name}/echo")
def echo(context: Context, asked: Question) -> Told:
    """Say it again."""
    return Told(said=asked.name)


def test_an_operation_is_made_of_a_function_and_its_annotations(connection: sqlite3.Connection) -> None:
    assert (echo.name, echo.takes, echo.gives, echo.in_path, echo.writes) == ("echo", Question, Told, ("name",), False)
    context = Context(connection, Settings(), 0)
    assert echo.do(context, Question(name="hi")) == Told(said="hi")


@pytest.mark.parametrize(("count", "shown", "following"), [(0, [], None), (2, ["0", "1"], None), (3, ["0", "1"], "1")])
def test_a_page_says_where_the_next_one_begins_if_there_is_one(
    count: int, shown: list[str], following: str | None
) -> None:
    page: Page[Told] = page_of(range(count), 2, lambda one: Told(said=str(one)), str)
    assert ([one.said for one in page.data], page.next) == (shown, following)


def test_what_a_newer_server_says_is_passed_on_and_what_was_not_said_is_not() -> None:
    assert Told.model_validate({"said": "x", "more": [1]}).json_object() == {"said": "x", "more": [1]}


def test_what_is_kept_for_a_repeated_request_has_no_secret() -> None:
    made = NewKey(
        id="key_1",
        tenant_id="acme",
        name="",
        hint="",
        status="active",
        models=[],
        trusted=False,
        created_at="2026-11-25T00:00:00.000Z",
        expires_at=None,
        revoked_at=None,
        limits=[],
        origin="managed",
        key="a-secret",
    )
    assert made.to_keep() == made.json_object() | {"key": None}


def test_operations_have_names_and_routes_of_their_own() -> None:
    assert len({one.name for one in OPERATIONS}) == len(OPERATIONS)
    assert len({(one.method, one.path) for one in OPERATIONS}) == len(OPERATIONS)
    for one in OPERATIONS:
        assert one.path.startswith("/admin/")
        assert set(one.in_path) <= set(one.fields)
        assert one.do.__doc__, one.name
