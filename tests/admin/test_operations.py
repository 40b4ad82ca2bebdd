"""Whatever commands do on the store, a server does as well: no operation is missing, and none is too many."""

from __future__ import annotations

import ast
from pathlib import Path

import proxy.admin
from proxy.admin.operations import OPERATIONS

FOLDER = Path(proxy.admin.__file__).parent


def decorated() -> int:
    """How many functions are made operations of."""
    found = 0
    for module in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.FunctionDef):
                found += sum(
                    isinstance(made, ast.Call) and getattr(made.func, "id", "") == "operation"
                    for made in node.decorator_list
                )
    return found


def test_every_operation_is_listed() -> None:
    for_each_owner = 2  # setting and taking away, made for three owners each
    assert len(OPERATIONS) == decorated() - for_each_owner + 3 * for_each_owner
