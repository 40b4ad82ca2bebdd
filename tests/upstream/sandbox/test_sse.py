from __future__ import annotations

from proxy.upstream.sandbox.sse import data_event, named_event


def test_a_chunk_is_one_line_of_data_even_when_its_text_has_line_breaks() -> None:
    assert data_event({"a": "x\ny"}) == b'data: {"a":"x\\ny"}\n\n'


def test_an_event_is_named_after_its_type() -> None:
    assert named_event({"type": "t"}) == b'event: t\ndata: {"type":"t"}\n\n'
