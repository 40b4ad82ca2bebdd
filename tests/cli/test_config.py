from __future__ import annotations

import re

import pytest

from proxy.cli.config import masked
from proxy.settings import known_keys
from tests.cli.conftest import Command

SECRETS = {
    "OPENAI_API_KEY": "sk-hunter2-upstream",
    "KONNECT_TOKEN": "kpat_hunter2",
    "TOLLGATE_ADMIN_TOKEN": "hunter2-admin",
    "TOLLGATE_SINK__HTTP_TOKEN": "hunter2-http",
    "OPENAI_BASE_URL": "https://user:hunter2@llm.example/v1",
    "KONNECT_API_URL": "https://user:hun@ter2@konnect.example/v3",
    "TOLLGATE_SINK__HTTP_URL": "https://hooks.example/in?sig=hunter2&v=hunter2#x",
    "TOLLGATE_WEBHOOKS__URL": "https://user:hunter2@chat.example/services/hunter2/hun?token=hunter2",
    "TOLLGATE_WEBHOOKS__SECRET": "whsec_hunter2hunter2hunter2hunter2hunter2hunter2xx",
}
LINE = re.compile(r"(\S+) = (.*?) +# (TOLLGATE_[A-Z0-9_]+)(, [A-Z_]+)?( \(default\))?")


def test_every_setting_is_a_line_with_its_variable_and_the_default_is_marked(
    tollgate: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOLLGATE_PORT", "9000")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:11434/v1")
    lines = tollgate.done("check-config").splitlines()
    matches = [LINE.fullmatch(line) for line in lines]
    assert [match and match[1] for match in matches] == [".".join(keys) for keys in known_keys()]
    told = {match[1]: match.groups()[1:] for match in matches if match}
    assert told["port"] == ("9000", "TOLLGATE_PORT", None, None)
    assert told["host"] == ("127.0.0.1", "TOLLGATE_HOST", None, " (default)")
    assert told["upstream.base_url"] == (
        "http://localhost:11434/v1",
        "TOLLGATE_UPSTREAM__BASE_URL",
        ", OPENAI_BASE_URL",
        None,
    )
    assert told["upstream.api_key"] == ("", "TOLLGATE_UPSTREAM__API_KEY", ", OPENAI_API_KEY", " (default)")


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_no_secret_is_told(tollgate: Command, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    said = tollgate.done("check-config", *options)
    for part in ("hunter2", "hun@", "ter2", "user:"):
        assert part not in said
    assert "https://***@llm.example/v1" in said
    assert "https://***@konnect.example/v3" in said
    assert "https://hooks.example/in?sig=***&v=***#x" in said
    assert "https://***@chat.example/***?token=***" in said


def test_json_is_nested_as_the_file_is(tollgate: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-hunter2")
    told = tollgate.json("check-config")
    assert (told["port"], told["admin_token"]) == (8000, None)
    assert told["upstream"]["api_key"] == "***"
    assert told["upstream"]["connections_max"] == 8192
    flat = {(*outer, *inner) for outer, inner in ((k[:1], k[1:]) for k in known_keys())}
    assert {
        (name, inner) if isinstance(value, dict) else (name,)
        for name, value in told.items()
        for inner in (value if isinstance(value, dict) else [""])
    } == flat


def test_the_file_and_dot_env_are_read(tollgate: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    (tollgate.directory / "tollgate.toml").write_text('port = 7000\n[sink]\nfile = "events.jsonl"\n')
    (tollgate.directory / ".env").write_text("TOLLGATE_CONFIG=tollgate.toml\nTOLLGATE_LOG_LEVEL=debug\n")
    told = tollgate.json("check-config")
    assert (told["port"], told["sink"]["file"], told["log_level"]) == (7000, "events.jsonl", "debug")


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("TOLLGATE_PORT", "hunter2", "TOLLGATE_PORT"),
        ("TOLLGATE_PROT", "hunter2", "Did you mean TOLLGATE_PORT?"),
        ("OPENAI_BASE_URL", "hunter2", "upstream.base_url"),
        ("TOLLGATE_DATABASE_URL", "postgresql://user:hunter2@db/x", "database_url"),
        ("TOLLGATE_CONFIG", "missing.toml", "TOLLGATE_CONFIG"),
    ],
)
@pytest.mark.parametrize("command", [("check-config",), ("tenants", "list"), ("serve",)])
def test_a_bad_configuration_is_one_line_that_names_the_key(
    tollgate: Command, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], name: str, value: str, named: str
) -> None:
    monkeypatch.setenv(name, value)
    said = tollgate.refused(*command, code=2)
    assert named in said
    assert "hunter2" not in said


def test_checking_makes_no_file(tollgate: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLGATE_DATABASE_URL", "sqlite:///elsewhere/x.db")
    tollgate.done("check-config")
    assert not (tollgate.directory / "elsewhere").exists()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:///var/tollgate.db", "sqlite:///var/tollgate.db"),
        ("https://u@h/", "https://***@h/"),
        ("https://u:pa/ss?@h/", "https://***@h/"),
        ("https://u:p@h/?next=http://x@y", "https://***@y"),
        ("https://h/?k", "https://h/?k"),
        ("plain words with an @", "plain words with an @"),
    ],
)
def test_masked_urls(url: str, shown: str) -> None:
    assert masked(url) == shown
