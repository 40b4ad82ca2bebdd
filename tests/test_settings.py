"""The settings: where they come from, and how a wrong one is told."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo

from proxy.errors import ConfigurationError
from proxy.settings import ECOSYSTEM_VARIABLES, Settings, known_keys, load

EXAMPLE = Path(__file__).parent.parent / "config" / "tollgate.example.toml"

#: For each key a value that is not its default, as the environment and as TOML would write it.
OTHER: dict[str, str] = {
    "host": "0.0.0.0",
    "port": "8001",
    "workers": "2",
    "database_url": "sqlite:///other.db",
    "log_level": "debug",
    "upstream.base_url": "http://localhost:1234/v1",
    "upstream.token_limit_field": "max_tokens",
    "upstream.on_disconnect": "cancel",
    "sink.profile": "prompt",
    "limits.unpriced": "count",
    "sink.konnect_api_url": "https://us.api.konghq.com/v3/openmeter",
    "sink.http_url": "http://localhost/events",
    "limits.time_zone": "Europe/Berlin",
    "limits.cap_output": "true",
    "limits.stop_streams": "true",
    "entitlements.feature": "ai_tokens",
    "entitlements.url": "http://localhost:8888/api/v1",
    "entitlements.dialect": "v1",
    "entitlements.when_unknown": "refuse",
    "webhooks.url": "http://localhost/hooks",
    "webhooks.secret": "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
    "webhooks.thresholds": "50, 90",
    "webhooks.key_expiry_days": "77",
    "hooks.openmeter_secret": "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
    "hooks.stripe_secret": "whsec_4fV0mPq7sT2xYc9LkR1nWd8e",
    "hooks.suspends": "true",
}
#: What a key cannot be set without.
NEEDED = {"webhooks.url": "webhooks.secret", "hooks.suspends": "hooks.stripe_secret"}


def other(keys: tuple[str, ...]) -> str:
    default = value_of(Settings(), keys)
    number = "7777" if isinstance(default, int | float) and keys[-1] != "batch_max" else "77"
    return OTHER.get(".".join(keys), number if isinstance(default, int | float) else "something")


def value_of(settings: Settings, keys: tuple[str, ...]) -> Any:
    value: Any = settings
    for key in keys:
        value = getattr(value, key)
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def variable(keys: tuple[str, ...]) -> str:
    return "TOLLGATE_" + "__".join(keys).upper()


def toml(keys: tuple[str, ...], value: str) -> str:
    is_number = isinstance(value_of(Settings(), keys), int | float)
    line = f"{keys[-1]} = {value if is_number else repr(value)}\n"
    return line if len(keys) == 1 else f"[{keys[0]}]\n{line}"


def refusal(directory: Path, **environment: str) -> str:
    with pytest.raises(ConfigurationError) as refused:
        load(environment, directory=directory)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_nothing_set_gives_the_defaults(tmp_path: Path) -> None:
    assert load({}, directory=tmp_path) == Settings()
    assert (Settings().host, Settings().port) == ("127.0.0.1", 8000)


@pytest.mark.parametrize("keys", known_keys(), ids=".".join)
@pytest.mark.parametrize("way", ["environment", "lower case", ".env", "file"])
def test_every_key_is_settable_in_every_way(keys: tuple[str, ...], way: str, tmp_path: Path) -> None:
    value, environment = other(keys), {}
    if way == "environment":
        environment = {variable(keys): value}
    elif way == "lower case":
        environment = {variable(keys).lower(): value}
    elif way == ".env":
        (tmp_path / ".env").write_text(f"{variable(keys)}={value}\n")
    else:
        (tmp_path / "tollgate.toml").write_text(toml(keys, value))
        environment = {"TOLLGATE_CONFIG": "tollgate.toml"}
    if needed := NEEDED.get(".".join(keys)):
        environment[variable(tuple(needed.split(".")))] = OTHER[needed]
    found = value_of(load(environment, directory=tmp_path), keys)
    assert str(found) in (value, f"{value}.0") or (found is True and value == "true")
    assert found != value_of(Settings(), keys)


@pytest.mark.parametrize("name", ECOSYSTEM_VARIABLES)
def test_the_ecosystems_names_are_honoured_and_ours_win(name: str, tmp_path: Path) -> None:
    keys = ECOSYSTEM_VARIABLES[name]
    (theirs, ours) = ("http://theirs", "http://ours")
    assert value_of(load({name: theirs}, directory=tmp_path), keys) == theirs
    assert value_of(load({name: theirs, variable(keys): ours}, directory=tmp_path), keys) == ours
    (tmp_path / "tollgate.toml").write_text(toml(keys, "http://file"))
    (tmp_path / ".env").write_text(f"{name}=http://env-file\nTOLLGATE_CONFIG=tollgate.toml\n")
    assert value_of(load({}, directory=tmp_path), keys) == "http://env-file"
    assert value_of(load({name: theirs}, directory=tmp_path), keys) == theirs
    (tmp_path / ".env").write_text(f"{variable(keys)}={ours}\n")
    assert value_of(load({name: theirs}, directory=tmp_path), keys) == ours


def test_the_environment_wins_over_env_file_which_wins_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "tollgate.toml").write_text("port = 1\nhost = 'file'\nlog_level = 'debug'\n")
    (tmp_path / ".env").write_text("TOLLGATE_CONFIG=tollgate.toml\nTOLLGATE_PORT=2\nTOLLGATE_HOST=dotenv\n")
    settings = load({"tollgate_port": "3"}, directory=tmp_path)
    assert (settings.port, settings.host, settings.log_level) == (3, "dotenv", "debug")


def test_lower_case_in_the_env_file_loses_to_the_environment_too(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("TOLLGATE_PORT=1\ntollgate_port=2\n")
    assert load({"TOLLGATE_PORT": "3"}, directory=tmp_path).port == 3


def test_an_empty_value_leaves_a_key_unset(tmp_path: Path) -> None:
    (tmp_path / "tollgate.toml").write_text('host = ""\n[upstream]\napi_key = ""\nca_file = ""\n')
    (tmp_path / ".env").write_text("TOLLGATE_PORT=\nTOLLGATE_HOST\nOPENAI_API_KEY=''\n")
    environment = {"TOLLGATE_CONFIG": "tollgate.toml", "TOLLGATE_PORT": "", "KONNECT_TOKEN": " ", "TOLLGATE_NOSUCH": ""}
    settings = load(environment, directory=tmp_path)
    assert settings.model_dump() == Settings().model_dump()
    assert settings.uses_sandbox


def test_space_around_a_value_is_not_part_of_it(tmp_path: Path) -> None:
    settings = load({"OPENAI_API_KEY": "sk-1\n", "TOLLGATE_PORT": " 80 "}, directory=tmp_path)
    assert value_of(settings, ("upstream", "api_key")) == "sk-1"
    assert settings.port == 80


def test_other_programs_variables_are_nobodys_business(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("# a comment\nexport DATABASE_URL=postgres://x\nPORT=3000\nTOLLGATEKEEPER=1\n")
    assert load({"HOST": "x", "OPENAI_ORG_ID": "x"}, directory=tmp_path) == Settings()


def test_the_variables_of_a_kubernetes_service_named_tollgate_mean_nothing(tmp_path: Path) -> None:
    links = {
        "TOLLGATE_SERVICE_HOST": "10.0.0.1",
        "TOLLGATE_SERVICE_PORT": "8000",
        "TOLLGATE_SERVICE_PORT_HTTP": "8000",
        "TOLLGATE_PORT": "tcp://10.0.0.1:8000",
        "TOLLGATE_PORT_8000_TCP": "tcp://10.0.0.1:8000",
        "TOLLGATE_PORT_8000_TCP_PROTO": "tcp",
        "TOLLGATE_PORT_8000_TCP_PORT": "8000",
        "TOLLGATE_PORT_8000_TCP_ADDR": "10.0.0.1",
    }
    assert load(links, directory=tmp_path) == Settings()


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("TOLLGATE_PROT", "TOLLGATE_PORT"),
        ("tollgate_hots", "TOLLGATE_HOST"),
        ("TOLLGATE_UPSTREAM_BASE_URL", "TOLLGATE_UPSTREAM__BASE_URL"),
        ("TOLLGATE_CONFIG_FILE", "TOLLGATE_CONFIG"),
        ("TOLLGATE_SINK__BATCH_MAXIMUM", "TOLLGATE_SINK__BATCH_MAX"),
    ],
)
def test_an_unknown_variable_is_refused_with_the_nearest_name(name: str, nearest: str, tmp_path: Path) -> None:
    message = f"{name.upper()} is not a setting. Did you mean {nearest}?"
    assert refusal(tmp_path, **{name: "canary"}) == message
    (tmp_path / ".env").write_text(f"{name}=canary\n")
    assert refusal(tmp_path) == message


def test_an_unknown_variable_that_is_near_nothing_is_refused_all_the_same(tmp_path: Path) -> None:
    assert refusal(tmp_path, TOLLGATE_="x").startswith("TOLLGATE_ is not a setting.")
    assert refusal(tmp_path, TOLLGATE_ZZZZZZZZZZZZZZZZZZZZZZ="x") == "TOLLGATE_ZZZZZZZZZZZZZZZZZZZZZZ is not a setting."


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prot = 1", "prot is not a setting. Did you mean port?"),
        ("base_url = 'x'", "base_url is not a setting. Did you mean upstream.base_url?"),
        ("[upstream]\nbase_ulr = 'x'", "upstream.base_ulr is not a setting. Did you mean upstream.base_url?"),
        ("[upstrem]\nbase_url = 'x'", "upstrem is not a setting. Did you mean upstream?"),
        ("[[sink]]\nfile = 'x'", "sink is a section: write [sink]"),
        ("upstream = 'x'", "upstream is a section: write [upstream]"),
        ("port = ", "Invalid value (at end of document)"),
        ("port = 1\nport = 2", "Cannot overwrite a value (at line 2, column 9)"),
    ],
)
def test_a_fault_in_the_file_is_told_with_the_files_name(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text(text)
    said = refusal(tmp_path, TOLLGATE_CONFIG="my.toml")
    assert said.startswith(f"{path}: ")
    assert words.split(" (at")[0] in said


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin1.toml").write_bytes(b"host = '\xe9'")
    for name in ("missing.toml", "latin1.toml", "."):
        said = refusal(tmp_path, TOLLGATE_CONFIG=name)
        assert said.startswith(f"TOLLGATE_CONFIG: cannot read {tmp_path / name}: ")


def test_an_env_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"A=\xff\xfe")
    assert refusal(tmp_path).startswith(f"{tmp_path}/.env: cannot be read: ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TOLLGATE_PORT", "canary"),
        ("TOLLGATE_PORT", "70000"),
        ("TOLLGATE_LOG_LEVEL", "canary"),
        ("TOLLGATE_UPSTREAM__BASE_URL", "canary"),
        ("TOLLGATE_UPSTREAM__BASE_URL", "http://me:canary/word@host/"),
        ("TOLLGATE_UPSTREAM__BASE_URL", "http://[canary"),
        ("TOLLGATE_UPSTREAM__BASE_URL", "http://host:70000/canary"),
        ("TOLLGATE_UPSTREAM__API_KEY", "canary with space"),
        ("TOLLGATE_UPSTREAM__API_KEY", "canary-é"),
        ("TOLLGATE_ADMIN_TOKEN", "canary\r\nX-Evil: 1"),
        ("TOLLGATE_SINK__KONNECT_API_URL", "canary"),
        ("TOLLGATE_SINK__HTTP_URL", "ftp://canary"),
        ("TOLLGATE_SINK__BATCH_MAX", "0"),
        ("TOLLGATE_SINK__TIMEOUT_S", "inf"),
        ("TOLLGATE_SINK__RETRY_MAX_S", "nan"),
        ("TOLLGATE_SERVER__BODY_BYTES_MAX", "1.5"),
        ("TOLLGATE_SINK__SOURCE", "\udcff"),
    ],
)
def test_a_wrong_value_names_the_key_and_is_not_repeated(name: str, value: str, tmp_path: Path) -> None:
    said = refusal(tmp_path, **{name: value})
    key = name.removeprefix("TOLLGATE_").lower().replace("__", ".")
    assert said.startswith(f"{key} ({name}): ")
    assert "canary" not in said
    assert value not in said


@pytest.mark.parametrize(
    "text", ["host = 1", "[upstream]\napi_key = 12345678", "[port]\nx = 1", "log_level = ['debug']"]
)
def test_a_wrong_type_in_the_file_names_the_key(text: str, tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text(text)
    said = refusal(tmp_path, TOLLGATE_CONFIG="my.toml")
    assert re.match(r"(host|upstream\.api_key|port|log_level) \(TOLLGATE_\w+\): Input should be ", said)
    assert "12345678" not in said


def test_settings_are_frozen() -> None:
    settings = Settings()
    with pytest.raises(ValidationError):
        settings.port = 1  # type: ignore[misc] # this is what is refused
    with pytest.raises(ValidationError):
        settings.upstream.base_url = "x"  # type: ignore[misc] # this is what is refused


def test_secrets_show_neither_in_repr_nor_in_str(tmp_path: Path) -> None:
    secrets = [keys for keys in known_keys() if "key" in keys[-1] or "token" in keys[-1].split("_")]
    secrets = [keys for keys in secrets if keys[-1] not in ("token_limit_field", "key_expiry_days")]
    assert len(secrets) == 5
    webhooks = OTHER["webhooks.secret"]
    given = {variable(keys): f"canary-{keys[-1]}" for keys in secrets}
    settings = load(given | {"TOLLGATE_WEBHOOKS__SECRET": webhooks}, directory=tmp_path)
    assert all(value_of(settings, keys) == f"canary-{keys[-1]}" for keys in secrets)
    for shown in (repr(settings), str(settings), settings.model_dump_json(), repr(settings.upstream)):
        assert "canary" not in shown
        assert webhooks not in shown


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, True),
        ({"OPENAI_API_KEY": "sk-1"}, False),
        ({"OPENAI_BASE_URL": "http://localhost:11434/v1"}, False),
        ({"OPENAI_BASE_URL": "https://api.openai.com/v1"}, True),
        ({"OPENAI_BASE_URL": "https://api.openai.com/v1/"}, True),
        ({"OPENAI_BASE_URL": "https://api.openai.com/v1", "OPENAI_API_KEY": "sk-1"}, False),
        ({"OPENAI_BASE_URL": "http://localhost:11434/v1", "OPENAI_API_KEY": "sk-1"}, False),
        ({"OPENAI_API_KEY": ""}, True),
    ],
)
def test_the_sandbox_answers_where_openai_would_refuse(
    environment: dict[str, str], expected: bool, tmp_path: Path
) -> None:
    assert load(environment, directory=tmp_path).uses_sandbox is expected


def explanation(keys: tuple[str, ...]) -> str | None:
    model: Any = Settings()
    for key in keys[:-1]:
        model = getattr(model, key)
    field = type(model).model_fields[keys[-1]]
    assert isinstance(field, FieldInfo)
    return field.description


def test_the_example_names_every_key_with_its_default_and_explanation(tmp_path: Path) -> None:
    text = EXAMPLE.read_text()
    assert tomllib.loads(text) == {
        "upstream": {},
        "server": {},
        "sink": {},
        "agent": {},
        "limits": {},
        "entitlements": {},
        "webhooks": {},
        "billing": {},
        "prices": {},
        "hooks": {},
    }
    uncommented = re.sub(r"^# (?=[a-z_]+ = )", "", text, flags=re.MULTILINE)
    path = tmp_path / "all.toml"
    path.write_text(uncommented)
    document = tomllib.loads(uncommented)
    flat = {
        (name, *inner): value
        for name, content in document.items()
        for inner, value in (
            {(key,): value for key, value in content.items()} if isinstance(content, dict) else {(): content}
        ).items()
    }
    assert sorted(flat) == sorted(known_keys())
    for keys, value in flat.items():
        default = value_of(Settings(), keys)
        assert value == ("" if default is None else default), keys
    assert load({"TOLLGATE_CONFIG": str(path)}, directory=tmp_path).model_dump() == Settings().model_dump()
    for keys in known_keys():
        assert f"# {explanation(keys)}\n# {keys[-1]} = " in text, keys


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("URL", "ftp://receiver.test/", "webhooks.url (TOLLGATE_WEBHOOKS__URL): must be an http:// or https:// URL"),
        ("URL", "http://receiver.test/", "webhooks.secret (TOLLGATE_WEBHOOKS__SECRET): is missing, and webhooks.url"),
        ("SECRET", "not-a-secret-of-ours", "webhooks.secret (TOLLGATE_WEBHOOKS__SECRET): must be whsec_ and 24 to 64"),
        ("THRESHOLDS", "80,half", "webhooks.thresholds (TOLLGATE_WEBHOOKS__THRESHOLDS): must be whole percentages"),
        ("KEY_EXPIRY_DAYS", "-1", "webhooks.key_expiry_days (TOLLGATE_WEBHOOKS__KEY_EXPIRY_DAYS): "),
    ],
)
def test_webhooks_that_cannot_work_are_refused(name: str, value: str, words: str, tmp_path: Path) -> None:
    refused = refusal(tmp_path, **{f"TOLLGATE_WEBHOOKS__{name}": value})
    assert refused.startswith(words)
    assert "not-a-secret" not in refused


def test_the_command_line_s_own_variable_is_passed_over_and_does_not_belong_into_env_files(tmp_path: Path) -> None:
    assert load({"TOLLGATE_SERVER": "http://x"}, directory=tmp_path) == load({}, directory=tmp_path)
    (tmp_path / ".env").write_text("TOLLGATE_SERVER=http://x\n")
    with pytest.raises(ConfigurationError, match="TOLLGATE_SERVER is not a setting"):
        load({}, directory=tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("OPENMETER_SECRET", "not-a-secret-of-ours", "must be whsec_ and 24 to 64 bytes in base64"),
        ("STRIPE_SECRET", "not-a-secret-of-ours", "must be whsec_ and what follows it"),
        ("STRIPE_SECRET", "whsec_4fV0mPq7sT2xYc9LkR1nWd8e sk_live_not-a-secret-of-ours", "must be whsec_ and what"),
        ("SUSPENDS", "true", "nobody can tell of payments: set hooks.openmeter_secret or hooks.stripe_secret"),
    ],
)
def test_hooks_that_cannot_work_are_refused(name: str, value: str, words: str, tmp_path: Path) -> None:
    refused = refusal(tmp_path, **{f"TOLLGATE_HOOKS__{name}": value})
    assert refused.startswith(f"hooks.{name.lower()} (TOLLGATE_HOOKS__{name}): {words}")
    assert "not-a-secret" not in refused
