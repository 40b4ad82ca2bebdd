from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from proxy.admin.description import describe
from proxy.admin.docs import page
from proxy.admin.operations import OPERATIONS
from proxy.admin.problem import KINDS
from tests.running import tollgate

DESCRIPTION = describe(OPERATIONS)


def test_both_are_served_with_and_without_the_admin_api(tmp_path: Path) -> None:
    with tollgate(tmp_path) as server:
        described = httpx.get(f"{server.url}/openapi.json")
        shown = httpx.get(f"{server.url}/docs")
    assert described.headers["content-type"] == "application/json"
    assert described.json() == DESCRIPTION
    assert shown.headers["content-type"] == "text/html; charset=utf-8"
    assert shown.headers["content-security-policy"].startswith("default-src 'none'")
    assert shown.text == page(DESCRIPTION)


def test_the_page_stands_alone() -> None:
    shown = page(DESCRIPTION)
    assert "<script" not in shown
    assert {*re.findall(r'(?:href|src)="([^"]*)"', shown)} == {"/openapi.json"}
    assert "url(" not in shown


@pytest.mark.parametrize("one", OPERATIONS, ids=lambda one: one.name)
def test_every_operation_is_on_the_page_with_all_that_it_takes(one: object) -> None:
    shown = page(DESCRIPTION)
    found = re.search(rf'<details id="{one.name}">.*?</details>', shown, re.DOTALL)  # type: ignore[attr-defined]
    assert found is not None
    for name in one.fields:  # type: ignore[attr-defined]
        assert f"<code>{name}</code>" in found[0]


def test_every_kind_of_problem_is_explained_where_its_type_points() -> None:
    shown = page(DESCRIPTION)
    for kind, (status, _) in KINDS.items():
        assert f'<tr id="{kind}"><td><code>{kind}</code><td>{status}' in shown


def test_words_of_the_description_are_text_and_no_markup() -> None:
    tampered = DESCRIPTION | {"info": {"title": "<b>", "version": "1", "description": "a <script> & `b<i>`"}}
    shown = page(tampered)
    assert "a &lt;script&gt; &amp; <code>b&lt;i&gt;</code>" in shown
    assert "<script" not in shown
