"""A file of events: whole lines, on disk, whatever happened before."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.delivery.sinks import FileSink, sink_for
from proxy.errors import SinkRefused, SinkUnavailable
from proxy.sections import SinkSettings


def events(*ids: str) -> list[dict[str, Any]]:
    return [{"id": one, "data": {"model": "gpt-4o\nmini", "subject": "ü"}} for one in ids]


def ids_in(path: Path) -> list[str]:
    return [orjson.loads(line)["id"] for line in path.read_bytes().splitlines()]


async def test_batches_are_appended_one_event_a_line(tmp_path: Path) -> None:
    path = tmp_path / "not" / "yet" / "events.jsonl"
    sink = FileSink(str(path))
    await sink.deliver(events("a", "b"))
    await sink.deliver(events("c"))
    await sink.close()
    assert [orjson.loads(line) for line in path.read_bytes().splitlines()] == events("a", "b", "c")
    assert path.read_bytes().endswith(b"}\n")


async def test_a_batch_is_synced_once_and_a_new_file_with_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(descriptor)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    sink = FileSink(str(tmp_path / "events.jsonl"))
    await sink.deliver(events("a", "b", "c"))
    assert len(synced) == 2
    await sink.deliver(events("d", "e"))
    assert len(synced) == 3


async def test_a_torn_last_line_is_left_alone_on_its_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"id":"a"}\n{"id":"torn')
    await FileSink(str(path)).deliver(events("b"))
    first, torn, last = path.read_bytes().splitlines()
    assert (orjson.loads(first)["id"], torn, orjson.loads(last)["id"]) == ("a", b'{"id":"torn', "b")


async def test_a_file_that_was_moved_away_is_begun_again(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    sink = FileSink(str(path))
    await sink.deliver(events("a"))
    path.rename(tmp_path / "events.1.jsonl")
    await sink.deliver(events("b"))
    assert ids_in(path) == ["b"]


async def test_a_full_disk_leaves_no_part_of_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "events.jsonl"
    sink = FileSink(str(path))
    await sink.deliver(events("a"))
    before = path.read_bytes()
    real = os.write
    room = [10]

    def write(descriptor: int, data: bytes) -> int:
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data[: room.pop()])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        with pytest.raises(SinkUnavailable, match="No space left on device"):
            await sink.deliver(events("b", "c"))
    assert path.read_bytes() == before
    await sink.deliver(events("b", "c"))
    assert ids_in(path) == ["a", "b", "c"]


async def test_a_path_that_cannot_be_written_is_tried_again_later(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path, tmp_path / "file" / "events.jsonl"):
        with pytest.raises(SinkUnavailable) as refusal:
            await FileSink(str(path)).deliver(events("a"))
        assert str(path) in refusal.value.words


async def test_what_json_cannot_hold_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with pytest.raises(SinkRefused, match="JSON"):
        await FileSink(str(path)).deliver([*events("a"), {"id": 2**64}])
    assert not path.exists()


def test_the_settings_name_a_file(tmp_path: Path) -> None:
    assert isinstance(sink_for(SinkSettings(file=str(tmp_path / "events.jsonl"))), FileSink)
