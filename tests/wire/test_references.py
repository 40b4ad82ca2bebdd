from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import InvalidRequest
from proxy.wire import references
from proxy.wire.references import (
    FIELDS,
    IN_CHAT,
    IN_IMAGES,
    IN_RESPONSES,
    IN_SPEECH,
    Reference,
    in_form,
    in_json,
    shown_by,
)


def named(document: Any, signs: Sequence[bytes] = IN_RESPONSES) -> set[tuple[str, str]]:
    """Field and id of all that a document names."""
    raw = document if isinstance(document, bytes) else orjson.dumps(document)
    return {(one.field, one.id) for one in in_json(raw, signs)}


#: For each field of the table: a body that names "x_1" by it, as OpenAI's API takes it, and the signs of its route.
NAMING: dict[str, tuple[Any, tuple[bytes, ...]]] = {
    "previous_response_id": ({"previous_response_id": "x_1"}, IN_RESPONSES),
    "comparison_response_id": ({"prompt_cache_options": {"comparison_response_id": "x_1"}}, IN_RESPONSES),
    "conversation": ({"conversation": "x_1"}, IN_RESPONSES),
    "item": ({"input": [{"type": "item_reference", "id": "x_1"}]}, IN_RESPONSES),
    "approval_request_id": ({"input": [{"approval_request_id": "x_1"}]}, IN_RESPONSES),
    "container": ({"tools": [{"container": "x_1"}]}, IN_RESPONSES),
    "container_id": ({"tools": [{"environment": {"container_id": "x_1"}}]}, IN_RESPONSES),
    "audio": ({"messages": [{"audio": {"id": "x_1"}}]}, IN_CHAT),
    "file_id": ({"messages": [{"content": [{"file": {"file_id": "x_1"}}]}]}, IN_CHAT),
    "file_ids": ({"tools": [{"container": {"file_ids": ["x_1"]}}]}, IN_RESPONSES),
    "vector_store_ids": ({"tools": [{"vector_store_ids": ["x_1"]}]}, IN_RESPONSES),
    "prompt": ({"prompt": {"id": "x_1"}}, IN_RESPONSES),
    "skill_id": ({"tools": [{"environment": {"skills": [{"skill_id": "x_1"}]}}]}, IN_RESPONSES),
    "tunnel_id": ({"tools": [{"tunnel_id": "x_1"}]}, IN_RESPONSES),
    "voice": ({"voice": {"id": "x_1"}}, IN_SPEECH),
}


def test_each_field_of_the_table_is_found_where_the_api_takes_it() -> None:
    assert NAMING.keys() == FIELDS.keys()
    for field, (body, signs) in NAMING.items():
        assert named(body, signs) == {(field, "x_1")}, field


def test_what_cannot_be_made_through_this_proxy_has_something_to_send_instead() -> None:
    assert all(kind.made != bool(kind.instead) for kind in FIELDS.values())


@pytest.mark.parametrize("signs", [IN_CHAT, IN_IMAGES, IN_SPEECH, IN_RESPONSES])
def test_the_signs_are_what_a_body_in_lower_case_would_hold(signs: tuple[bytes, ...]) -> None:
    assert all(sign == sign.lower() for sign in signs)


PADDING = st.dictionaries(st.text(max_size=8), st.integers() | st.text(max_size=8) | st.none(), max_size=3)


@st.composite
def spelled(draw: st.DrawFn, name: str) -> str:
    """A member's name as some parser or other takes it for this one: letters as escapes, or in another case."""
    out = []
    for letter in name:
        forms = [letter, letter.upper(), f"\\u{ord(letter):04x}", f"\\u{ord(letter.upper()):04X}"]
        forms += ["\u017f", "\\u017f"] if letter == "s" else ["\u212a", "\\u212A"] if letter == "k" else []
        out.append(draw(st.sampled_from(forms)))
    return "".join(out)


@given(st.data(), st.sampled_from(["previous_response_id", "file_id", "vector_store_ids", "skill_id", "tunnel_id"]))
def test_a_name_is_found_in_any_spelling_at_any_depth_beside_anything(data: st.DataObject, field: str) -> None:
    name = data.draw(spelled(field))
    space = data.draw(st.sampled_from(["", " ", "\n\t"]))
    body = f'{{"{name}"{space}:{space}"x_1"}}'
    for _ in range(data.draw(st.integers(0, 4))):
        around = json.dumps(data.draw(PADDING), ensure_ascii=data.draw(st.booleans()))[1:-1]
        beside = f"{around}," if around else ""
        wrap = data.draw(st.sampled_from(['{%s"deep":%s}', '{%s"deep":[0,%s]}', '{%s"deep":%s,"deep":null}']))
        body = wrap % (beside, body)
    try:
        body.encode()
    except UnicodeEncodeError:
        return
    assert (field, "x_1") in named(body.encode())


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"file_id":"a","file_id":"b"}', {"a", "b"}),
        (b'{"file_ids":["a","b",null]}', {"a", "b"}),
        (b'{"file_id":["a"]}', {"a"}),
        (b'{"file_id":7}', {"7.0"}),
        (b'{"file_id":null}', set()),
        (b'{"file_id":{"type":"string"}}', set()),
        (b'{"conversation":{"id":"a","ID":"b"}}', {"a", "b"}),
        (b'{"conversation":{"id":null}}', set()),
        (b'{"input":[{"id":"a"}],"input":[{"id":"b"}]}', {"a", "b"}),
        (b'{"input":"the \\"id\\" of a file_id"}', set()),
        (b'{"container":{"type":"auto","file_ids":["a"]}}', {"a"}),
        (b'{"prompt":"a text","input":[{"role":"user","content":"x"}],"x":"\\"id\\""}', set()),
        (b'{"metadata":{"file_id":"a"}}', set()),
        (b'{"Metadata":{"file_id":"a"}}', {"a"}),
        (b'{"prompt":{"variables":{"metadata":{"file_id":"a"},"conversation":"b"}}}', {"a"}),
        (b'{"text":{"format":{"schema":{"file_id":"a"}}}}', set()),
        (b'{"x":123456789012345678901234567890123456789,"file_id":"a"}', {"a"}),
        (b'{"x":' + b"9" * 6000 + b',"file_id":"a"}', {"a"}),
    ],
)
def test_every_occurrence_counts_and_nothing_else(body: bytes, found: set[str]) -> None:
    assert {one for _, one in named(body)} == found


def test_a_bare_voice_is_one_of_openai_s_own_unless_it_is_an_id() -> None:
    assert named({"voice": "alloy", "x": {"id": 1}}, IN_SPEECH) == set()
    assert named({"voice": "voice_12"}, IN_SPEECH) == {("voice", "voice_12")}


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000 + b'"file_id"' + b"]" * 100_000,
        b'{"file_id":' * 100_000 + b"0" + b"}" * 100_000,
        b'{"file_id":"x","deep":[' + b"{}," * 600_000 + b"{}]}",
        b"previous_response_id=resp_1",
        b'{"file_id":"\xff"}',
    ],
)
def test_what_cannot_be_looked_through_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        in_json(body, IN_RESPONSES)


@given(st.binary(max_size=200))
def test_whatever_the_bytes_it_names_something_or_is_refused(raw: bytes) -> None:
    try:
        found = in_json(raw, IN_RESPONSES)
    except InvalidRequest:
        return
    assert all(isinstance(one, Reference) for one in found)


def test_a_form_names_a_file_by_its_field() -> None:
    assert [one.id for one in in_form({"image[0][File_Id]": "file-1", "prompt": "file_id"})] == ["file-1"]


@pytest.mark.parametrize(
    ("answer", "ids"),
    [
        (
            {"id": "resp_1", "object": "response", "output": [{"id": "msg_1"}, {"id": "rs_1"}]},
            ["resp_1", "msg_1", "rs_1"],
        ),
        ({"id": "resp_1", "conversation": {"id": "conv_1"}, "output": None}, ["resp_1", "conv_1"]),
        (
            {"type": "response.created", "response": {"id": "resp_1", "conversation": {"id": "conv_1"}}},
            ["resp_1", "conv_1"],
        ),
        ({"type": "response.output_item.added", "item": {"id": "ci_1", "container_id": "cntr_1"}}, ["ci_1", "cntr_1"]),
        ({"item": {"id": "sh_1", "environment": {"container_id": "cntr_1"}}}, ["sh_1", "cntr_1"]),
        (
            {"type": "response.completed", "response": {"id": "resp_1", "output": [{"id": "msg_1"}]}},
            ["resp_1", "msg_1"],
        ),
        ({"type": "response.output_text.delta", "item_id": "msg_1", "delta": "x"}, []),
        ({"object": "list", "data": [{"id": "msg_1"}, {"id": "msg_2"}], "first_id": "msg_1"}, ["msg_1", "msg_2"]),
        ({"id": "conv_1", "object": "conversation", "metadata": {"id": "x"}}, ["conv_1"]),
        ({"id": "chatcmpl-1", "choices": [{"message": {"audio": {"id": "audio_1"}}}]}, ["audio_1"]),
        ({"choices": [{"delta": {"audio": {"id": "audio_1"}}}, {"delta": {}}, None]}, ["audio_1"]),
        ({"id": 7, "output": [None, "x", {"id": ""}, {"id": "a\nb"}, {"id": "x" * 257}], "data": {}}, []),
        ({}, []),
    ],
)
def test_the_ids_that_an_answer_shows(answer: dict[str, Any], ids: list[str]) -> None:
    assert sorted(shown_by(answer)) == sorted(ids)


@pytest.mark.parametrize("before", range(40))
def test_a_large_body_is_looked_through_in_pieces_that_hide_nothing(
    before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(references, "PIECE_BYTES", 16)
    body = b'{"pad": "%b", "inPut": [{"Type": "Item_Reference", "iD": "x_1"}]}' % (b"." * before)
    assert named(body) == {("item", "x_1")}


def test_no_sign_is_longer_than_what_two_pieces_share() -> None:
    signs = {*IN_CHAT, *IN_IMAGES, *IN_RESPONSES, *IN_SPEECH}
    assert max(map(len, signs)) < references._SIGN_BYTES_MAX
