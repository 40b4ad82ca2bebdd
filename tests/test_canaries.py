"""The search for secrets finds them, wherever a test may leave them: each of these tests leaves one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.canaries import Canaries, files_in, read, words_of

ROOT = Path(__file__).parent.parent
SECRET = "kpat_PLANTED-token"
MADE = "tg_" + "m" * 43

#: What a test may do wrong, and where it is found.
PLANTED = {
    "print(SECRET)": "captured stdout of call",
    "print(SECRET, file=sys.stderr)": "captured stderr of call",
    "os.write(2, SECRET.encode())": "captured stderr of call",
    "logging.getLogger('proxy.gateway').debug('a %s', SECRET)": "the log",
    "logging.getLogger('any').error('x', exc_info=ValueError(SECRET))": "the log",
    "SinkRefused(f'no {SECRET}')": "an error's words",
    "fails(SECRET)": "the test's error",
    "(tmp_path / 'tollgate.db-wal').write_bytes(bytes(9) + SECRET.encode() + bytes(9))": "tollgate.db-wal",
    "(tmp_path / 'a').mkdir(); (tmp_path / 'a' / 'log').write_text(f'no {SECRET}')": "a/log",
    "(tmp_path / 'log').write_text(f'made {MADE}!')": "log",
    "(tmp_path / 'log').write_text(f'A demo tenant was made. Its key is shown only now; try it: {MADE}')": "log",
    "(tmp_factory.mktemp('elsewhere') / 'log').write_text(f'no {SECRET}')": "elsewhere0/log",
    "tells_receiver(SECRET)": "events at a receiver",
    "load({'OPENAI_API_KEY': 'sk-PLANTED-key'}); print('sk-PLANTED-key')": "captured stdout of call",
    "hash_of(b'ak_PLANTED-key'); print('ak_PLANTED-key')": "captured stdout of call",
    "run({'TENANT_KEY': 'sk-PLANTED-own'}); print('sk-PLANTED-own')": "captured stdout of call",
    "run({'HTTPS_PROXY': 'http://a:PLANTED-word@b'}); print('PLANTED-word')": "captured stdout of call",
    "run({}, 'keys', '--import', 'ak_PLANTED-import'); print('ak_PLANTED-import')": "captured stdout of call",
    "HttpSink('http://a:PLANTED-word@b', timeout_s=1); print('PLANTED-word')": "captured stdout of call",
    "OpenMeter('http://b', token='PLANTED-token'); print('PLANTED-token')": "captured stdout of call",
    "UpstreamKeys({'A': 'sk-PLANTED-own'}).secret('env:A'); print('sk-PLANTED-own')": "captured stdout of call",
    "tunnel('http://a:PLANTED@b'); print('YTpQTEFOVEVE')": "captured stdout of call",
}
#: What it may do.
MEANT = [
    "print('nothing')",
    "load({'OPENAI_API_KEY': 'short'}); print('short')",
    "(tmp_path / '.env').write_text(f'KONNECT_TOKEN={SECRET}')",
    "(tmp_path / 'tollgate.toml').write_text(f'konnect_token = \"{SECRET}\"')",
    "(tmp_path / 'acme.key').write_text(f'{SECRET}\\n')",
    "(tmp_path / 'link').symlink_to(__file__)",
    "os.mkfifo(tmp_path / 'fifo')",
]
MODULE = """
import logging, os, subprocess, sys
import pytest
from proxy.billing.openmeter import OpenMeter
from proxy.delivery.sinks import HttpSink
from proxy.errors import SinkRefused
from proxy.settings import load
from proxy.store.tenants import hash_of
from proxy.upstream.connect import Origin
from proxy.upstream.keys import UpstreamKeys
from tests.delivery.receiver import Receiver

SECRET = {secret!r}
MADE = {made!r}

def fails(words):
    raise ValueError(words)

def tells_receiver(words):
    Receiver().taken.append({{"id": words}})

def run(variables, *words):
    subprocess.run([sys.executable, "-c", "", *words], env=variables)

def tunnel(url):
    os.environ["HTTPS_PROXY"] = url
    Origin.parse("https://host/")
    del os.environ["HTTPS_PROXY"]

@pytest.fixture(autouse=True)
def settings(tmp_path_factory):
    load({{"KONNECT_TOKEN": SECRET}}, directory=tmp_path_factory.getbasetemp())
"""


def test_every_secret_is_found_that_is_left_where_none_may_be() -> None:
    lines = [*PLANTED, *MEANT]
    tests = [f"def test_{at}(tmp_path, tmp_path_factory):\n    {line}\n" for at, line in enumerate(lines)]
    code = MODULE.format(secret=SECRET, made=MADE) + "\n".join(tests).replace("tmp_factory", "tmp_path_factory")
    with TemporaryDirectory() as folder:  # where the search after this test does not look
        module = Path(folder) / "test_planted.py"
        module.write_text(code)
        command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-c", os.devnull, "-p", "no:cacheprovider"]
        command += [f"--basetemp={folder}/left", str(module)]
        told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    found = {
        int(at): places
        for at, places in re.findall(r"ERROR at teardown of test_(\d+) _+\na secret is .*\n((?:.+: b'.*\n)+)", told)
    }
    assert set(found) == set(range(len(PLANTED))), told
    for at, place in enumerate(PLANTED.values()):
        assert re.search(rf"^\S*{re.escape(place)}: b'", found[at], re.MULTILINE), (lines[at], found[at])


def test_a_key_that_is_shown_the_one_time_is_found_everywhere_else() -> None:
    shown = f"""A demo tenant was made. Its key is shown only now; try it:

  curl http://127.0.0.1:8000/v1/chat/completions \\
    -H 'Authorization: Bearer {MADE}' \\
"""
    assert [*Canaries().found_in(shown.encode())] == []
    assert [*Canaries().found_in(f"{shown}request with {MADE}".encode())] == [MADE.encode()]


def test_what_is_too_short_to_be_a_secret_is_left_alone() -> None:
    canaries = Canaries()
    canaries.add("CANARY7")
    assert [*canaries.found_in(b"a CANARY7")] == []
    canaries.add("CANARY78")
    assert [*canaries.found_in(b"a CANARY78 and more")] == [b"a CANARY78 and more"]


def test_what_serves_several_tests_is_searched_until_the_last_of_them(tmp_path: Path) -> None:
    canaries = Canaries()
    canaries.is_lasting = True
    canaries.add(SECRET)
    canaries.is_lasting = False
    canaries.lasting_directories.append(tmp_path)
    (tmp_path / "log.toml").write_text(f"no {SECRET}")
    (tmp_path / "log.toml").rename(tmp_path / "log")
    for _ in range(2):
        assert len(canaries.leaks()) == 1
        canaries.forget(lasting=False)
    canaries.forget(lasting=True)
    assert canaries.leaks() == []
    (tmp_path / "log").unlink()


def test_of_a_large_file_the_beginning_and_the_end_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.canaries._FILE_BYTES_MAX", 8)
    file = tmp_path / "large"
    for content, expected in [("0123456789abcdefghij", "01234567cdefghij"), ("0123456789", "0123456789"), ("01", "01")]:
        file.write_text(content)
        assert read(file) == expected.encode()


def test_what_goes_away_or_is_no_file_is_passed_over(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(ROOT)
    (tmp_path / "gone").touch()
    (found,) = files_in(tmp_path)
    found.unlink()
    assert read(found) == b""
    assert [*files_in(tmp_path / "nowhere")] == []


def test_of_errors_all_that_led_to_them_is_read_but_what_tests_assert() -> None:
    error = KeyError("then")
    error.__context__ = ExceptionGroup("several", [ValueError("one"), AssertionError("asserted")])
    assert [*words_of(error)] == ["KeyError: 'then'", "ExceptionGroup: several (2 sub-exceptions)", "ValueError: one"]
    error.__suppress_context__ = True
    assert [*words_of(error)] == ["KeyError: 'then'"]
