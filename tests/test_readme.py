"""README's first ten minutes, and what follows on them, pasted block by block into a shell."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.documents import section
from tests.process import needs_curl, process
from tests.running import WAIT_S

TENANTS = "docs/tenants.md"
TO_PASTE = (
    section("README.md", "The first ten minutes") + section(TENANTS, "What tenants see") + section(TENANTS, "Admin API")
)
ADMIN = {"TOLLGATE_ADMIN_TOKEN": "what-openssl-has-made"}
PASTED = re.findall(r"^```(sh|python)\n(.*?)^```$", TO_PASTE, re.MULTILINE | re.DOTALL)


@needs_curl
def test_each_block_works_as_pasted(tmp_path: Path) -> None:
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    assert len(PASTED) >= 7
    said = []
    with process(tmp_path, **ADMIN) as server:
        url = server.url
        for language, block in PASTED:
            words = ["bash", "-ec"] if language == "sh" else [sys.executable, "-c"]
            code = block.replace("http://localhost:8000", url)
            done = subprocess.run(
                [*words, code],
                cwd=tmp_path,
                env=os.environ | ADMIN,
                capture_output=True,
                text=True,
                timeout=WAIT_S * 3,
            )
            assert done.returncode == 0, done.stderr
            assert '"error"' not in done.stdout
            assert '"errors"' not in done.stdout
            said.append(done.stdout)
    everything = "".join(said)
    answer = "This is the Tollgate sandbox: a deterministic answer, made without any model."
    assert everything.count(answer) == 5  # curl, the SDK and the agent's three; the stream was cut short
    assert "data: [DONE]" in everything
    assert '"object":"usage"' in everything
    assert "gpt-4o-mini-2024-07-18,6,131," in everything.rpartition("from,to,model")[2]
    assert '{"id":"user-002","name":"Example Ltd","status":"active"' in everything
    assert '"next":"user-001"' in everything
    assert "tokens/month      10,000      0   10,000" in everything
    assert everything.count("Usage of user-001 from") == 2
    assert "6" in everything.rpartition("recorded")[2].partition("\n")[0]
