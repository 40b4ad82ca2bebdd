from __future__ import annotations

import multiprocessing
import os
import random
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from proxy.store import board as boards
from proxy.store.board import AMOUNT_MAX, PAGE_BYTES, Board, BoardFull, Row, State

PLACES = 4


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    made = Board.create(tmp_path / "ledger", PLACES)
    yield made
    made.close()


@pytest.fixture
def second(board: Board) -> Iterator[Board]:
    other = Board(board.path)
    yield other
    other.close()


def reserve(board: Board, row: Row, place: int, amount: int) -> None:
    with board:
        row.own += amount
        board.put(row, place)


def fill(board: Board, keys: range) -> None:
    for key in keys:
        reserve(board, Row(key, 0), 0, key)


def elsewhere(board: Board, key: int, but: int) -> int:
    with board:
        return board.add_up(Row(key, 0), but)


def test_what_one_reserves_the_others_see(board: Board, second: Board) -> None:
    mine, theirs = Row(7, 0), Row(7, 0)
    reserve(board, mine, 0, 30)
    reserve(second, theirs, 1, 12)
    assert [elsewhere(one, 7, but) for one in (board, second) for but in (0, 1, 2)] == [12, 30, 42] * 2
    assert elsewhere(board, 8, 0) == 0
    reserve(board, mine, 0, -30)
    assert elsewhere(second, 7, 1) == 0


def test_the_lock_is_one_s_at_a_time_and_says_whose_it_was_last(board: Board, second: Board) -> None:
    assert board.try_lock()
    assert not second.try_lock()
    assert second.holder == os.getpid()
    board.unlock()
    assert second.try_lock()
    second.unlock()
    with board:
        assert not second.try_lock()


def test_beats_are_counted_from_the_start_of_a_worker_to_its_end(board: Board, second: Board) -> None:
    board.take(1)
    assert second.beats(1) == 0
    board.beat(1)
    board.beat(1)
    assert (second.beats(1), second.beats(0)) == (2, 0)
    board.rest(1)
    assert second.beats(1) == 0
    board.beat(1)
    board.take(1)
    assert second.beats(1) == 0, "it is another's place"


def test_more_money_than_fits_is_shown_as_all_there_is(board: Board, second: Board) -> None:
    reserve(board, Row(7, 0), 0, 2**70)
    assert elsewhere(second, 7, 1) == AMOUNT_MAX


def test_it_is_nobody_else_s_to_read_and_goes_away(board: Board) -> None:
    assert board.path.stat().st_mode & 0o777 == 0o600
    board.remove()
    assert not board.path.exists()
    board.remove()


def test_rows_move_when_they_are_many_and_none_is_lost(board: Board, second: Board) -> None:
    dice = random.Random(1)
    rows: dict[int, dict[int, Row]] = {0: {}, 1: {}}
    for _ in range(20_000):
        place, key = dice.randrange(2), dice.randrange(1, 2**63)
        if dice.randrange(3) == 0 and rows[place]:
            key, row = rows[place].popitem()
            reserve((board, second)[place], row, place, -row.own)
        else:
            row = rows[place].setdefault(key, Row(key, 0))
            reserve((board, second)[place], row, place, dice.randrange(1, 100))
    assert len(rows[0]) > 2_000
    for place, other in ((0, second), (1, board)):
        for key, row in rows[place].items():
            assert elsewhere(other, key, 1 - place) == row.own
    assert board.path.stat().st_size < 8 * 2**20


def test_rows_that_are_empty_are_used_again(board: Board) -> None:
    for key in range(1, 50_000):
        row = Row(key, 0)
        reserve(board, row, 0, 1)
        reserve(board, row, 0, -1)
    assert board.path.stat().st_size < 2**20


def test_more_rows_than_there_may_be_are_refused_and_the_others_stay(
    board: Board, second: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boards, "ROWS_MAX", 2048)
    with pytest.raises(BoardFull):
        fill(board, range(1, 5_000))
    known = [elsewhere(second, key, 1) for key in range(1, 1_000)]
    assert known == [*range(1, 1_000)]
    reserve(second, Row(3, 0), 1, 5)
    assert elsewhere(board, 3, 0) == 5


def test_a_disk_that_is_full_is_told_and_the_rows_stay(
    board: Board, second: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(BoardFull, match="No space left"):
            fill(board, range(1, 5_000))
    assert [elsewhere(second, key, 1) for key in range(1, 600)] == [*range(1, 600)]
    fill(board, range(1_000, 3_000))


def test_a_kill_while_rows_move_leaves_them_where_they_were(
    board: Board, second: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    fill(board, range(1, 600))
    generation = second._words[boards._GENERATION_AT]
    with monkeypatch.context() as patched:
        patched.setattr(Board, "_room", killed)
        with pytest.raises(Killed):
            fill(board, range(1_000, 3_000))
    assert second._words[boards._GENERATION_AT] == generation
    assert [elsewhere(second, key, 1) for key in range(1, 600)] == [*range(1, 600)]


def test_a_place_is_taken_seen_buried_and_cleared_when_all_have_seen_what_was_left(board: Board, second: Board) -> None:
    for place in (0, 1):
        board.take(place)
        board.name(place, 100 + place)
    assert (board.state(0), board.pid(1)) == (State.STARTING, 101)
    assert board.seen_by_all() > 2**60, "nobody has to be waited for"
    board.see(0, 7)
    second.see(1, 5)
    assert [board.seen_by_all(), board.seen_by_all(but=1), board.seen_by_all(but=0)] == [5, 7, 5]
    reserve(second, Row(9, 0), 1, 3)
    board.bury(1)
    assert (board.state(1), board.seen_by_all()) == (State.DEAD, 7)
    assert not board.is_clear(1), "it is not known yet what it has left"
    board.clear_at(1, 8)
    board.clear_at(1, 9)  # another has found the same, later
    assert not board.is_clear(1)
    board.see(0, 8)
    assert board.is_clear(1)
    with board:
        board.clear(1)
    assert (board.state(1), elsewhere(board, 9, 0)) == (State.FREE, 0)


def test_a_page_is_read_as_it_was_written_and_a_torn_one_is_none(board: Board, second: Board) -> None:
    with board:
        assert board.read_page(2) == b""
        board.write_page(2, b"x" * 100)
        board.write_page(PLACES, b"of those before")
    with second:
        assert (second.read_page(2), second.read_page(PLACES)) == (b"x" * 100, b"of those before")
        second._map[boards._HEAD_BYTES + 2 * PAGE_BYTES + 20] = 0
        assert second.read_page(2) == b""
        with pytest.raises(AssertionError):
            second.write_page(2, bytes(PAGE_BYTES))


def test_one_whose_process_was_killed_is_removed_by_the_next_and_a_living_one_s_is_not(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=hold, args=(ledger, ready))
    process.start()
    assert ready.wait(30)
    (theirs,) = tmp_path.iterdir()
    first = Board.create(ledger, PLACES)
    assert theirs.exists()
    process.kill()
    process.join()
    second = Board.create(tmp_path / "another", PLACES)
    assert theirs.exists(), "it is of another ledger"
    third = Board.create(ledger, PLACES)
    assert not theirs.exists()
    for board in (first, second, third):
        board.close()


def hold(ledger: Path, ready: Event) -> None:
    board = Board.create(ledger, PLACES)
    ready.set()
    time.sleep(60)
    board.close()


def test_nobody_comes_between_in_any_number_of_processes(board: Board) -> None:
    """Each takes one while there is room by what all have."""
    processes = [multiprocessing.get_context("spawn").Process(target=take, args=(board.path, n)) for n in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert elsewhere(board, 7, 3) == 1_000


def take(path: Path, place: int) -> None:
    board, row = Board(path), Row(7, 0)
    for _ in range(2_000):
        with board:
            if board.add_up(row, place) + row.own < 1_000:
                row.own += 1
                board.put(row, place)
    board.close()
