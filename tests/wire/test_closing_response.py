"""A stream of the Responses API, stopped after any event: nothing is left open, and the official SDK reads it."""

from __future__ import annotations

from typing import Any

import orjson
from openai import omit
from openai._models import construct_type
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import ResponseStreamEvent

from proxy.model import Usage
from proxy.wire import closing_response
from proxy.wire.closing_response import ResponseClosing
from tests import corpus
from tests.wire.test_closing import USAGE, cuts, documents, recorded


def stopped(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events that follow these."""
    closing = ResponseClosing()
    for one in events:
        closing.note(one, len(orjson.dumps(one)))
    assert closing.is_open
    raw = closing.events(USAGE)
    more = documents(raw)
    assert raw.count(b"event: ") == len(more)
    return more


def is_whole(events: list[dict[str, Any]]) -> bool:
    known = [one["type"] for one in events]
    in_background = any(one.get("response", {}).get("background") for one in events)
    return known[0] == "response.created" and "response.completed" in known and not in_background


def left_open(events: list[dict[str, Any]]) -> set[tuple[Any, ...]]:
    """What was begun and not done: items, their parts and texts."""
    found: dict[tuple[Any, ...], None] = {}
    for one in events:
        name, _, what = one["type"].rpartition(".")
        place = one.get("content_index", one.get("summary_index"))
        at = (name, one.get("output_index"), place)
        if what in ("added", "delta") and "annotation" not in name:
            found[at] = None
        elif what == "done":
            found.pop(at, None)
    return set(found)


@corpus.needed
def test_each_recorded_response_is_closed_wherever_it_is_cut() -> None:
    rounds = 0
    for name, events in recorded("responses"):
        known = [one["type"] for one in events]
        if not is_whole(events):
            continue
        for cut in cuts(events[: known.index("response.completed")]):
            seen = events[:cut]
            more = stopped(seen)
            whole = [*seen, *more]
            assert not left_open(whole), (name, cut)
            last = more[-1]["response"]
            assert (last["status"], last["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
            assert last["id"] == [one["response"]["id"] for one in seen if "response" in one][-1]
            assert last["usage"]["total_tokens"] == 32
            numbers = [one["sequence_number"] for one in whole if "sequence_number" in one]
            assert not numbers or numbers[len(seen) - 1 :] == [
                numbers[len(seen) - 1] + at for at in range(len(more) + 1)
            ]
            rounds += 1
    assert rounds > 100


@corpus.needed
def test_the_sdk_puts_each_together() -> None:
    rounds = 0
    for name, events in recorded("responses"):
        known = [one["type"] for one in events]
        if not name.startswith(("openai", "azure")) or not is_whole(events):
            continue
        for cut in cuts(events[: known.index("response.completed")], 4):
            state: ResponseStreamState[Any] = ResponseStreamState(input_tools=[], text_format=omit)
            told = [
                made
                for one in [*events[:cut], *stopped(events[:cut])]
                for made in state.handle_event(construct_type(type_=ResponseStreamEvent, value=one))  # type: ignore[arg-type]
            ]
            last = told[-1]
            assert last.type == "response.incomplete"
            text = "".join(one["delta"] for one in events[:cut] if one["type"] == "response.output_text.delta")
            assert last.response.output_text == text, (name, cut)
            rounds += 1
    assert rounds > 50


def opening(**more: Any) -> dict[str, Any]:
    return {"type": "response.created", "sequence_number": 0, "response": {"id": "resp_1", "output": [], **more}}


def added(index: int, **item: Any) -> dict[str, Any]:
    return {"type": "response.output_item.added", "output_index": index, "item": item}


def test_a_call_in_the_middle_of_its_arguments_is_incomplete() -> None:
    delta = {"type": "response.function_call_arguments.delta", "output_index": 0, "item_id": "fc_1", "delta": '{"a'}
    call = added(0, id="fc_1", type="function_call", name="look", arguments="", status="in_progress")
    done, item, last = stopped([opening(), call, delta, delta])
    assert (done["type"], done["arguments"]) == ("response.function_call_arguments.done", '{"a{"a')
    assert item["item"] == {
        "id": "fc_1",
        "type": "function_call",
        "name": "look",
        "arguments": '{"a{"a',
        "status": "incomplete",
    }
    assert last["response"]["output"] == [item["item"]]
    assert [one["sequence_number"] for one in (done, item, last)] == [1, 2, 3]


def test_a_response_in_the_background_is_never_open_nor_one_that_has_ended() -> None:
    for last in (opening(background=True), {"type": "response.completed", "response": {"id": "resp_1"}}):
        closing = ResponseClosing()
        closing.note(last, 10)
        assert not closing.is_open


def test_half_an_emoji_in_a_text_is_written_as_it_came() -> None:
    delta = {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "\ud83d"}
    closing = ResponseClosing()
    for one in (opening(), added(0, id="msg_1", type="message", content=[]), delta):
        closing.note(one, 10)
    assert rb"\ud83d" in closing.events(Usage())


def test_what_is_nested_too_deeply_to_be_written_is_left_out() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    closing = ResponseClosing()
    closing.note(opening(metadata=deep, model="gpt-4o"), 10)
    (last,) = documents(closing.events(USAGE))
    assert (last["response"]["id"], last["response"]["model"]) == ("resp_1", "gpt-4o")
    assert last["response"]["status"] == "incomplete"


def test_a_response_without_end_is_not_kept_without_end() -> None:
    closing = ResponseClosing()
    closing.note(opening(), 10)
    closing.note(added(0, id="msg_1", type="message", content=[]), closing_response.KEPT_BYTES_MAX + 1)
    closing.note(added(1, id="msg_2", type="message", content=[]), 10)
    (last,) = documents(closing.events(USAGE))
    assert (last["type"], last["response"]["output"]) == ("response.incomplete", [])
