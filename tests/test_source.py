"""The file of the settings: what of it are settings, and what it cannot be."""

from __future__ import annotations

import gc
import os
import sys
import threading
from pathlib import Path

import pytest

from proxy.errors import ConfigurationError
from proxy.settings import load, read
from proxy.source import FILE_BYTES_MAX, Source, gently, nearest, stamp_of

DECLARING = "port = 7\n[tenants.acme]\nname = ''\n[sink]\nfile = 'x'\n[plans.starter]\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "my.toml"


def test_what_declares_tenants_is_no_setting(path: Path) -> None:
    path.write_text(DECLARING)
    document, declaring = Source(path, {}).read()
    assert document == {"port": 7, "sink": {"file": "x"}}
    assert declaring == {"tenants": {"acme": {"name": ""}}, "plans": {"starter": {}}}


def test_settings_know_what_they_were_read_from_and_variables_win_again(path: Path) -> None:
    path.write_text(DECLARING)
    (path.parent / ".env").write_text("TOLLGATE_CONFIG=my.toml\nTOLLGATE_SINK__FILE=dotenv\n")
    settings = load({"TOLLGATE_HOST": "::1"}, directory=path.parent)
    assert settings.source == Source(path, {})
    assert settings.source is not None
    assert read(settings.source)[1] == {"tenants": {"acme": {"name": ""}}, "plans": {"starter": {}}}
    path.write_text("port = 8\nhost = 'file'\n")
    again, declaring = read(settings.source)
    assert (again.port, again.host, again.sink.file) == (8, "::1", "dotenv")
    assert declaring == {}
    assert settings.model_copy(update={"port": 0}).source == settings.source


def test_without_a_file_there_is_nothing_to_read_again(tmp_path: Path) -> None:
    assert load({}, directory=tmp_path).source is None


def test_a_relative_path_is_made_absolute(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.touch()
    monkeypatch.chdir(path.parent)
    source = load({"TOLLGATE_CONFIG": "my.toml"}).source
    assert source is not None
    assert source.path == path


def test_variables_do_not_show(path: Path) -> None:
    assert "hunter2" not in repr(Source(path, {"OPENAI_API_KEY": "sk-hunter2"}))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"port = \xff", "cannot read"),
        (b"port = 1" + b"1" * 5000, "Exceeds the limit"),
        (b"x = " + b"[" * 5000, "recursion"),
        (b"#" * (FILE_BYTES_MAX + 1), "has more than 16 MiB"),
        (b"[tenants.a]\n[tenants.a]", "(at line 2, column"),
        (b"[tenant.a]", "tenant is not a setting. Did you mean tenants?"),
        (b"[plan.a]", "plan is not a setting. Did you mean plans?"),
    ],
    ids=["UTF-8", "digits", "depth", "size", "twice", "tenant", "plan"],
)
def test_a_file_that_cannot_be_is_named(path: Path, content: bytes, words: str) -> None:
    path.write_bytes(content)
    with pytest.raises(ConfigurationError) as refused:
        load({"TOLLGATE_CONFIG": "my.toml"}, directory=path.parent)
    assert str(path) in str(refused.value)
    assert words in str(refused.value)


def test_the_nearest_name_is_asked_for() -> None:
    assert nearest("nmae", ["name", "plan"]) == " Did you mean name?"
    assert nearest("base_url", ["port", "upstream.base_url"]) == " Did you mean upstream.base_url?"
    assert nearest("zzzz", ["name"]) == ""


def test_what_was_read_ahead_is_read_once_more_without_the_file(path: Path) -> None:
    path.write_text(DECLARING)
    source = Source(path, {})
    content = source.read_ahead()
    seen = source.stamp
    assert seen == stamp_of(path)
    path.write_text("port = 8")
    assert source.read() == content
    assert source.stamp == seen, "so that the change is noticed"
    assert source.read() == ({"port": 8}, {})
    assert source.stamp == stamp_of(path)


def test_a_pipe_can_be_read_at_the_start(path: Path) -> None:
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_text, args=(DECLARING,))
    writer.start()
    source = load({"TOLLGATE_CONFIG": "my.toml"}, directory=path.parent).source
    writer.join()
    assert source is not None
    assert read(source)[0].port == 7
    assert source.stamp is None


def test_a_stamp_changes_with_the_file_or_where_another_takes_its_place(path: Path) -> None:
    assert stamp_of(path) is None
    assert stamp_of(path.parent) is None
    path.write_text("a")
    seen = [stamp_of(path)]
    path.write_text("ab")
    seen.append(stamp_of(path))
    other = path.with_name("other")
    other.write_text("ab")
    other.replace(path)
    seen.append(stamp_of(path))
    link = path.with_name("link")
    link.symlink_to(path)
    assert stamp_of(link) == seen[-1]
    assert len(set(seen)) == 3


def test_who_works_gently_leaves_the_process_as_it_was() -> None:
    before = sys.getswitchinterval(), gc.isenabled()
    with gently():
        assert not gc.isenabled()
        assert sys.getswitchinterval() < before[0]
    assert (sys.getswitchinterval(), gc.isenabled()) == before
    with pytest.raises(ConfigurationError):
        Source(Path("/nowhere"), {}).read()
    assert (sys.getswitchinterval(), gc.isenabled()) == before
