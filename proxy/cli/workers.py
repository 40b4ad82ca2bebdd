"""Several workers on one port: a supervisor that binds the sockets, forks the workers and replaces those that end.

It forks before there is any thread or event loop, so each worker is what a server alone would be. The sockets stay its
own as well: who waits in the queue of a worker that died is served by its successor.

Between it and each worker is a pair of sockets. `READY` comes up it; `STOP` goes down, and means the same as its end:
a worker whose supervisor was killed finishes what it has and leaves.

A worker that lives and does nothing (it was stopped, or its loop is stuck) would keep for ever what it holds: the
clients in its queue, the turn to write, the lock of the board. When it has been silent for long it is killed, and
replaced.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import NoReturn

from proxy.errors import StoreError
from proxy.store.board import Board, Seat, State
from proxy.store.database import Database
from proxy.web.sums import fold

log = logging.getLogger(__name__)

READY = b"R"
STOP = b"S"

#: A worker that ends sooner than this is replaced later each time, from the first wait up to the second.
_STEADY_S = 10.0
_WAIT_S = 0.1
_WAIT_S_MAX = 5.0
#: How long to wait at most before it is looked again whether a worker is to be started.
_TURN_S = 0.1
#: How often one tries to lock the board.
_LOCK_S = 0.005
#: How often it is looked whether a worker's loop turns, and how many times in vain before it is killed. What counts is
#: what the supervisor sees: where all stood still together, as with a machine that was suspended, nobody was silent.
_LOOK_S = 1.0
_LOOKS_MAX = 10
#: How long whoever waited for one that was killed has to move again, before it is killed as well.
_LOOKS_AFTER = 3
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)


@dataclass(frozen=True, slots=True)
class Post:
    """What a worker is given. The `first` one tells where all of them listen."""

    seat: Seat
    listeners: list[socket.socket]
    control: socket.socket
    first: bool


class _Worker:
    """One of them, or where one is missing (`pid` is 0)."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.pid = 0
        self.place = -1
        self.control: socket.socket | None = None
        self.is_ready = False
        self.is_quiet = False  #: nothing more is to be heard from it
        self.beats = 0
        self.silent_looks = 0  #: so many looks in a row have found no beat
        self.began_s = 0.0
        self.due_s = 0.0
        self.wait_s = 0.0


def supervise(database: Database, listeners: Sequence[list[socket.socket]]) -> Post:
    """Returns in each worker that is forked, and never in the supervisor, which exits when all have ended.

    `listeners`: those of each worker. Raises `StoreError` where there can be none.
    """
    try:
        board = Board.create(database.path, 2 * len(listeners) + 2)
    except OSError as error:
        raise StoreError(f"{database.path}: workers need a file beside it: {error.strerror}") from None
    return _Supervisor(board, listeners).run()


class _Supervisor:
    def __init__(self, board: Board, listeners: Sequence[list[socket.socket]]) -> None:
        self._board = board
        self._listeners = listeners
        self._workers = [_Worker(number) for number in range(len(listeners))]
        self._code = 0
        self._signal = 0  # that ended it at once
        self._is_stopping = False
        self._had_terminal = has_terminal()
        self._has_spoken = False
        self._looks_at_s = 0.0

    def run(self) -> Post:
        reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._reader = reader
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, _noted)
        while True:
            for worker in self._due():
                post = self._fork(worker)
                if post is not None:
                    return post
            if self._is_stopping and not any(worker.pid for worker in self._workers):
                self._end()
            self._wait()

    def _end(self) -> None:
        self._board.remove()
        if self._signal:
            signal.signal(self._signal, signal.SIG_DFL)
            os.kill(os.getpid(), self._signal)
        sys.exit(self._code)

    # Starting

    def _due(self) -> list[_Worker]:
        """The workers to start now: the first one alone, and the others when it serves."""
        if self._is_stopping:
            return []
        due = self._workers if self._has_spoken else self._workers[:1]
        return [worker for worker in due if not worker.pid and worker.due_s <= time.monotonic()]

    def _fork(self, worker: _Worker) -> Post | None:
        """The post of the worker, in its own process; None in this one."""
        place = self._free_place()
        if place is None:
            return None
        ours, theirs = socket.socketpair()
        sys.stdout.flush()
        sys.stderr.flush()
        self._board.take(place)
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            pid = os.fork()
        except OSError as error:
            log.error("a worker cannot be started: %s", error.strerror)
            worker.due_s = time.monotonic() + _WAIT_S_MAX
            with self._locked() as board:
                board.clear(place)
            ours.close()
            theirs.close()
            pid = -1
        if pid == 0:
            ours.close()
            self._let_go(worker)
            self._board.name(place, os.getpid())
            seat = Seat(self._board.path, place)
            self._board.close()
            post = Post(seat, self._listeners[worker.number], theirs, not self._has_spoken)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            return post
        if pid > 0:
            theirs.close()
            ours.setblocking(False)
            self._board.name(place, pid)
            worker.pid, worker.place, worker.control = pid, place, ours
            worker.is_ready = worker.is_quiet = False
            worker.beats = worker.silent_looks = 0
            worker.began_s = time.monotonic()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        return None

    def _let_go(self, worker: _Worker) -> None:
        """In the new process: of all that is the supervisor's or another worker's."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, leave)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.close(self._reader)
        os.close(self._writer)
        own = self._listeners[worker.number]
        for other in self._workers:
            if other.control is not None:
                other.control.close()
            for listener in self._listeners[other.number]:
                if listener not in own:
                    listener.close()

    def _free_place(self) -> int | None:
        """None while the dead ones' are not settled yet."""
        board = self._board
        free = [place for place in range(board.places) if board.state(place) is State.FREE]
        if not free and not any(worker.pid for worker in self._workers):
            with board:  # nobody is left whose counters could be wrong
                for place in range(board.places):
                    board.clear(place)
            return 0
        return free[0] if free else None

    # Waiting

    def _wait(self) -> None:
        """For a signal, a worker's word, or a moment."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._reader, selectors.EVENT_READ)
            for worker in self._workers:
                if worker.control is not None and not worker.is_quiet:
                    selector.register(worker.control, selectors.EVENT_READ, worker)
            rests = self._is_stopping or all(worker.pid for worker in self._workers)
            for key, _ in selector.select(_LOOK_S if rests else _TURN_S):
                if isinstance(key.data, _Worker):
                    self._hear(key.data)
        numbers = b""
        with suppress(BlockingIOError):
            numbers = os.read(self._reader, 4096)
        for number in numbers:
            self._heed(number)
        self._look()
        self._reap()

    def _hear(self, worker: _Worker) -> None:
        assert worker.control is not None
        worker.is_quiet = True
        with suppress(OSError):
            if worker.control.recv(1) == READY:
                worker.is_ready = self._has_spoken = True

    def _heed(self, number: int) -> None:
        if number == signal.SIGHUP and (not self._had_terminal or has_terminal()):
            for worker in self._workers:
                _kill(worker, signal.SIGHUP)
        elif number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if self._is_stopping:
                self._signal = self._signal or number
                for worker in self._workers:
                    _kill(worker, signal.SIGKILL)
            self._stop()

    def _stop(self) -> None:
        """Let all of them finish. What listens goes first here: a worker takes along who waits, and closes it last."""
        self._is_stopping = True
        for listeners in self._listeners:
            for listener in listeners:
                listener.close()
        for worker in self._workers:
            if worker.control is not None:
                with suppress(OSError):
                    worker.control.send(STOP)

    # Ends

    def _look(self) -> None:
        """Kill who has been silent for long. Of several, the one that the others may be waiting for goes first."""
        now_s = time.monotonic()
        if now_s < self._looks_at_s:
            return
        self._looks_at_s = now_s + _LOOK_S
        silent = []
        for worker in self._workers:
            beats = self._board.beats(worker.place) if worker.pid else 0
            is_silent = beats == worker.beats != 0
            worker.silent_looks = worker.silent_looks + 1 if is_silent else 0
            worker.beats = beats
            if worker.silent_looks >= _LOOKS_MAX:
                silent.append(worker)
        if silent:
            worst = next((worker for worker in silent if worker.pid == self._board.holder), silent[0])
            log.error(
                "worker %d (process %d) has done nothing for %d s, and is killed",
                *(worst.number + 1, worst.pid, worst.silent_looks * _LOOK_S),
            )
            _kill(worst, signal.SIGKILL)
            for worker in silent:
                worker.silent_looks = _LOOKS_MAX - _LOOKS_AFTER

    @contextmanager
    def _locked(self) -> Iterator[Board]:
        while not self._board.try_lock():
            self._look()  # who holds it may never give it back
            time.sleep(_LOCK_S)
        try:
            yield self._board
        finally:
            self._board.unlock()

    def _reap(self) -> None:
        for worker in self._workers:
            if worker.pid:
                pid, status = os.waitpid(worker.pid, os.WNOHANG)
                if pid:
                    self._bury(worker, os.waitstatus_to_exitcode(status))

    def _bury(self, worker: _Worker, code: int) -> None:
        was_ready, pid = worker.is_ready, worker.pid
        assert worker.control is not None
        worker.control.close()
        worker.pid, worker.control = 0, None
        with self._locked() as board:
            board.bury(worker.place)
            fold(board, worker.place)
        if self._is_stopping:
            if code and not self._signal:
                log.warning("worker %d (process %d) %s while it stopped", worker.number + 1, pid, _words(code))
            return
        if not self._has_spoken or (not was_ready and worker.wait_s == 0 and code > 0):
            self._code = code if code >= 0 else 1  # it has told why itself
            self._stop()
            return
        lived_s = time.monotonic() - worker.began_s
        worker.wait_s = min(_WAIT_S_MAX, worker.wait_s * 2 or _WAIT_S) if lived_s < _STEADY_S else _WAIT_S
        worker.due_s = time.monotonic() + (worker.wait_s if lived_s < _STEADY_S else 0)
        log.warning("worker %d (process %d) %s, and another takes its place", worker.number + 1, pid, _words(code))


def has_terminal() -> bool:
    try:
        os.tcgetpgrp(0)
    except OSError:
        return False
    return True


def _kill(worker: _Worker, number: int) -> None:
    if worker.pid:
        os.kill(worker.pid, number)  # it is not reaped yet, so that the id is still its own


def _words(code: int) -> str:
    return f"ended with {code}" if code >= 0 else f"was ended by {signal.Signals(-code).name}"


def _noted(_number: int, _frame: object) -> None:
    """The number has gone through the pipe of `signal.set_wakeup_fd`."""


def leave(_number: int, _frame: object) -> NoReturn:
    """For signals that come before there is anything to finish."""
    raise SystemExit(0)
