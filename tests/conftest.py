"""What all tests share: the event loop, and the search for secrets after each of them (`tests.canaries`)."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests import canaries
from tests.canaries import Canaries

# How fast this machine is at the moment is no matter of what holds.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

#: The level that the root logger has here, in the place of WARNING: below all levels, and no test's own choice.
_ALL = logging.DEBUG - 1

_CANARIES = pytest.StashKey[Canaries]()
_PATCH = pytest.StashKey[pytest.MonkeyPatch]()


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The event loop that the server runs on: uvloop has its own ways with sockets and TLS."""
    return "asyncio", {"use_uvloop": True}


def pytest_configure(config: pytest.Config) -> None:
    seen, patch = Canaries(), pytest.MonkeyPatch()
    canaries.watch(seen, patch)
    config.stash[_CANARIES], config.stash[_PATCH] = seen, patch
    logging.getLogger().addHandler(canaries.Listener(seen))
    # All is heard that the proxy could log. Of tests' own clients, no more than `tollgate serve` lets through.
    logging.getLogger().setLevel(_ALL)
    for name in ("httpx", "httpcore", "openai"):
        logging.getLogger(name).setLevel(logging.WARNING)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Tests that look at the log themselves see of it what they did before."""
    plugin = session.config.pluginmanager.getplugin("logging-plugin")
    for handler in (plugin.caplog_handler, plugin.report_handler):
        handler.addFilter(_is_asked_for)


def _is_asked_for(record: logging.LogRecord) -> bool:
    level = logging.getLogger(record.name).getEffectiveLevel()
    return record.levelno >= (logging.WARNING if level == _ALL else level)


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[_PATCH].undo()


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest) -> Iterator[None]:
    seen = request.config.stash[_CANARIES]
    before, seen.is_lasting = seen.is_lasting, seen.is_lasting or fixturedef.scope != "function"
    try:
        return (yield)
    finally:
        seen.is_lasting = before


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    if call.excinfo is not None and call.when != "teardown":
        for words in canaries.words_of(call.excinfo.value):
            item.config.stash[_CANARIES].note("the test's error", words)
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """The outermost, so that whatever the test and its fixtures leave is there."""
    seen = item.config.stash[_CANARIES]
    try:
        result = yield
        for when, kind, content in item._report_sections:
            seen.note(f"captured {kind} of {when}", content)
        leaks = seen.leaks(item.nodeid)
    finally:
        seen.forget(lasting=nextitem is None or nextitem.path != item.path)
    if leaks:
        pytest.fail("\n".join(["a secret is where none may be", *leaks]), pytrace=False)
    return result
