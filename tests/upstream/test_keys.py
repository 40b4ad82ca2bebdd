"""Upstream keys of tenants' own: found where the reference says, read again when they change, missed out loud."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from proxy.errors import KeyMissing
from proxy.upstream.keys import UpstreamKeys


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_variable_is_read_without_the_space_around_it() -> None:
    keys = UpstreamKeys({"ACME": " sk-acme\n"})
    assert keys.secret("env:ACME") == "sk-acme"


def test_a_file_is_read_again_when_it_was_changed_and_not_before(tmp_path: Path, clock: Clock) -> None:
    file = tmp_path / "key"
    file.write_text("sk-one\n")
    keys = UpstreamKeys({}, clock)
    reference = f"file:{file}"
    assert keys.secret(reference) == "sk-one"
    file.write_text("sk-second\n")
    assert keys.secret(reference) == "sk-one"  # it was looked at within this second
    clock.now += 1
    assert keys.secret(reference) == "sk-second"


def test_a_file_that_was_replaced_as_kubernetes_does_is_read_again(tmp_path: Path, clock: Clock) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(f"sk-{name}")
        os.utime(tmp_path / name, (1, 1))
    link = tmp_path / "key"
    link.symlink_to("one")
    keys = UpstreamKeys({}, clock)
    assert keys.secret(f"file:{link}") == "sk-one"
    (tmp_path / "next").symlink_to("two")
    (tmp_path / "next").rename(link)
    clock.now += 1
    assert keys.secret(f"file:{link}") == "sk-two"


@pytest.mark.parametrize("content", [b"", b"\n", b"sk with spaces", b"sk-\xc3\xa9", b"two\nlines", b"\x00"])
def test_what_cannot_be_a_key_is_none(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(KeyMissing):
        UpstreamKeys({}).secret(f"file:{file}")


@pytest.mark.parametrize("reference", ["env:NOT_SET", "env:EMPTY", "file:/not/there", "file:/"])
def test_a_missing_key_is_logged_once_with_its_place_and_told_without(
    reference: str, caplog: pytest.LogCaptureFixture
) -> None:
    keys = UpstreamKeys({"EMPTY": "  "})
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            with pytest.raises(KeyMissing) as caught:
                keys.secret(reference)
            assert reference not in str(caught.value)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert reference in caplog.text


def test_a_key_that_is_withdrawn_is_used_no_more_and_one_that_comes_back_is(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "key"
    file.write_text("sk-one")
    keys = UpstreamKeys({}, clock)
    assert keys.secret(f"file:{file}") == "sk-one"
    file.unlink()
    clock.now += 1
    with pytest.raises(KeyMissing):
        keys.secret(f"file:{file}")
    file.write_text("sk-two")
    with caplog.at_level(logging.INFO):
        assert keys.secret(f"file:{file}") == "sk-two"
    assert "found again" in caplog.text
