from __future__ import annotations

import pytest

from proxy.cli.tables import print_facts, print_table


def test_a_table_has_numbers_to_the_right_and_totals_at_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", "n"), [("a", 5), ("b", 12_345)], totals=("total", 12_350))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "n"]
    assert [line.split() for line in lines[2:4]] == [["a", "5"], ["b", "12,345"]]
    assert lines[2].rstrip().endswith(" 5")
    assert lines[-1].split() == ["total", "12,350"]


def test_a_table_without_rows_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name",), [], empty="There are none.")
    assert capsys.readouterr().out == "There are none.\n"


def test_markup_and_control_characters_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("[b]name[/b]",), [("[red]x\x1b[0m\n\u202e",)])
    print_facts([("words", "[red]\x07")])
    said = capsys.readouterr().out
    assert "[red]x\\x1b[0m\\n\\u202e" in said
    assert "[red]\\x07" in said


def test_on_a_narrow_terminal_a_long_cell_is_folded_and_not_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    print_table(("id",), [("0123456789" * 10,)])
    assert capsys.readouterr().out.count("0123456789") >= 8
