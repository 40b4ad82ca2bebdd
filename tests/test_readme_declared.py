"""What the documentation and the example configuration declare works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

from proxy.declaration.document import KeyTable, LimitTable, PlanTable, TenantTable
from proxy.store import tenants
from tests.declaration.files import declaration, status
from tests.documents import ROOT, section
from tests.running import tollgate

SECTION = section("docs/tenants.md", "Declared tenants")
(DECLARED,) = re.findall(r"^```toml\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)
EXAMPLE = (ROOT / "config" / "tollgate.example.toml").read_text()


def test_what_is_declared_there_is_in_force(tmp_path: Path) -> None:
    path = tmp_path / "tollgate.toml"
    path.write_text(DECLARED)
    with tollgate(tmp_path, TOLLGATE_CONFIG=str(path)) as server:
        assert status(server, "ak_user1_abc123") == 200
        assert status(server, "ak_user1_abc124") == 401
        assert server.settlement().subject == "user-001"
        with server.app.database.transaction() as connection:
            assert [one.origin for one in tenants.tenants(connection)] == ["declared"]


def test_every_member_is_there_and_in_the_example() -> None:
    shown = "\n".join(line.removeprefix("#   ") for line in EXAMPLE.splitlines() if line.startswith("#   "))
    found = declaration(shown)
    assert found.tenants["user-001"].keys[0].sha256 == declaration(DECLARED).tenants["user-001"].keys[0].sha256
    for table in (PlanTable, TenantTable, KeyTable, LimitTable):
        for member in table.model_fields:
            assert re.search(rf"`{member}\b|{member} = ", SECTION), member
            assert member == "adopt" or re.search(rf"\b{member}( = |\]\])", shown), member
