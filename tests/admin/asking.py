"""How tests ask the admin API."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.running import Running, tollgate

TOKEN = "an-admin-s-token"


@dataclass(frozen=True)
class Operator:
    """Whoever has the admin token."""

    client: httpx.Client

    def __call__(self, method: str, path: str, **more: Any) -> httpx.Response:
        return self.client.request(method, f"/admin{path}", **more)

    def done(self, method: str, path: str, status: int = 200, **more: Any) -> Any:
        """What is answered where all goes well."""
        answer = self(method, path, **more)
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/json"
        return answer.json()

    def refused(self, method: str, path: str, status: int, kind: str, **more: Any) -> Any:
        """The problem that it is."""
        return problem_of(self(method, path, **more), status, kind)

    def all(self, path: str, limit: int, **query: str) -> list[Any]:
        """A whole list, so many at a time."""
        found: list[Any] = []
        after = ""
        while True:
            page = self.done("GET", path, params={"limit": str(limit), "after": after, **query})
            assert len(page["data"]) <= limit
            found += page["data"]
            if page["next"] is None:
                return found
            after = page["next"]


def problem_of(answer: httpx.Response, status: int, kind: str) -> Any:
    """One whole problem report (RFC 9457) of this kind."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    said = answer.json()
    assert said["type"] == f"/docs#{kind}"
    assert said["status"] == status
    assert said["title"]
    assert said["detail"]
    return said


@contextlib.contextmanager
def operating(directory: Path, **variables: str) -> Iterator[tuple[Running, Operator]]:
    """A server with these settings, and its operator."""
    with tollgate(directory, TOLLGATE_ADMIN_TOKEN=TOKEN, **variables) as server:
        headers = {"authorization": f"Bearer {TOKEN}"}
        with httpx.Client(base_url=server.url, headers=headers, timeout=30) as client:
            yield server, Operator(client)
