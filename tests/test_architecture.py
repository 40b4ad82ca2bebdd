"""The structure that DESIGN.md and STYLE.md fix, read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROXY = ROOT / "proxy"
MODULES = sorted(PROXY.rglob("*.py"))

MODULE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70

#: What each part may import of the others: downwards only.
MAY_IMPORT = {
    "model": set(),
    "errors": set(),
    "money": set(),
    "limits": {"model", "errors", "money", "wire"},
    "instants": {"model", "limits"},
    "source": {"errors"},
    "sections": {"limits"},
    "settings": {"errors", "sections", "source"},
    "wire": {"model", "errors"},
    "upstream": {"model", "errors", "wire"},
    "store": {"model", "errors", "money", "limits", "instants"},
    "declaration": {"model", "errors", "limits", "instants", "source", "sections", "settings", "store"},
    "gateway": {"model", "errors", "limits", "sections", "settings", "wire", "upstream", "store"},
    "delivery": {"model", "errors", "money", "sections", "settings", "wire", "store"},
    "webhooks": {"model", "errors", "limits", "instants", "sections", "settings", "store", "delivery", "web"},
    "billing": {"model", "errors", "money", "limits", "instants", "sections", "settings", "wire", "store", "delivery"},
    "payments": {"model", "errors", "sections", "store", "webhooks"},
    "agent": {"model", "errors", "sections", "settings", "wire", "upstream", "store", "gateway"},
    "web": {
        *("model", "errors", "money", "limits", "instants", "sections", "settings", "gateway", "store", "delivery"),
        "declaration",
    },
    "admin": {
        *("model", "errors", "money", "limits", "instants", "sections", "settings", "wire", "store", "gateway"),
        *("delivery", "billing", "agent", "web"),
    },
    "app": {
        *("model", "errors", "limits", "sections", "settings", "wire", "upstream", "store", "gateway", "delivery"),
        *("webhooks", "payments", "declaration", "agent", "billing", "web", "admin"),
    },
    "cli": {
        *("model", "errors", "money", "limits", "instants", "sections", "settings", "wire", "store", "delivery"),
        *("billing", "web", "webhooks", "app", "declaration", "admin"),
    },
    "__main__": {"cli"},
    "__init__": set(),
}

#: Protocol knowledge does no I/O.
NO_IO = {"asyncio", "socket", "ssl", "sqlite3", "httpx", "starlette", "uvicorn", "threading", "pathlib", "os", "time"}


def part_of(module: Path) -> str:
    return module.relative_to(PROXY).parts[0].removesuffix(".py")


def imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def name(module: Path) -> str:
    return str(module.relative_to(ROOT))


@pytest.mark.parametrize("module", MODULES, ids=name)
def test_imports_point_down(module: Path) -> None:
    part = part_of(module)
    for target in imported(ast.parse(module.read_text())):
        if target.startswith("proxy."):
            other = target.split(".")[1]
            assert other == part or other in MAY_IMPORT[part] or other == "__version__", f"{part} imports {target}"
        if part == "wire":
            assert target.split(".")[0] not in NO_IO, f"wire imports {target}"


@pytest.mark.parametrize("module", MODULES, ids=name)
def test_imports_stand_at_the_top(module: Path) -> None:
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert not [inner for inner in ast.walk(node) if isinstance(inner, ast.Import | ast.ImportFrom)], node.name


@pytest.mark.parametrize("module", [*MODULES, *sorted((ROOT / "tests").rglob("*.py"))], ids=name)
def test_modules_and_functions_stay_small(module: Path) -> None:
    text = module.read_text()
    assert len(text.splitlines()) < MODULE_LINES_MAX
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < FUNCTION_LINES_MAX, node.name


@pytest.mark.parametrize("module", MODULES, ids=name)
def test_nothing_is_shared_by_a_global_statement(module: Path) -> None:
    assert not [node for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.Global)]


@pytest.mark.parametrize("module", [one for one in MODULES if not one.stem.startswith("__")], ids=name)
def test_tests_mirror_the_tree(module: Path) -> None:
    where = ROOT / "tests" / module.relative_to(PROXY).parent
    assert list(where.glob(f"test_{module.stem}*.py")), f"no tests for {name(module)}"
