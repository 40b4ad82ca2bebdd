from __future__ import annotations

import pytest

from proxy.cli.output import complain, print_json, printable


def test_json_is_utf_8_and_ends_its_line(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    print_json({"name": "Łódź"})
    assert capfdbinary.readouterr().out == '{\n  "name": "Łódź"\n}\n'.encode()


def test_a_complaint_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    complain("it\n  broke\x1b[2J")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "tollgate: it broke\\x1b[2J\n")


def test_printable_leaves_letters_of_any_language() -> None:
    assert printable("gpt-4o, 模型 é") == "gpt-4o, 模型 é"
    assert printable("a\x00\x7f\x9b\u2028") == "a\\x00\\x7f\\x9b\\u2028"
