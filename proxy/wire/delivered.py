"""What an answer really delivered, kept to be counted where the upstream does not report what it used."""

from __future__ import annotations

from collections.abc import Mapping
from io import StringIO
from typing import Any, TypeAlias

import orjson

from proxy.model import Usage
from proxy.wire.attachments import encrypted_tokens
from proxy.wire.tokens import Tokenizer

_TEXT, _REASONING, _SUMMARY, _NAME, _CALL = "text", "reasoning", "summary", "name", "call"
_WITHIN_ITEMS = (_TEXT, _REASONING, _SUMMARY, _CALL)

#: No honest answer has so many choices, items and calls; what comes after is put together in one place.
_BUFFERS_MAX = 4096
_REST = -1
#: Characters of one answer that are kept; the longest that models give has an eighth of it. Those beyond are counted
#: four to a token, so that a stream without end does not fill the memory.
_CHARS_MAX = 4 * 1024 * 1024

#: What a model writes around its text, and around each call, and what is counted with it: the header of its channel,
#: the token that ends it. Not published: the usual difference to what was reported, in recordings of whole answers.
_AROUND = (("gpt-5.", (4, 11)), ("gpt-5", (9, 11)), ("gpt-oss", (10, 11)))
_AROUND_ELSE = (1, 3)

#: The Responses API's events that carry generated text, and what it is. The `*.done` events and `response.completed`
#: repeat it. Not here: audio and images, whose deltas are base64.
_DELTA_EVENTS = {
    "response.output_text.delta": _TEXT,
    "response.refusal.delta": _TEXT,
    "response.audio.transcript.delta": _TEXT,
    "response.output_audio_transcript.delta": _TEXT,
    "response.function_call_arguments.delta": _CALL,
    "response.custom_tool_call_input.delta": _CALL,
    "response.mcp_call_arguments.delta": _CALL,
    "response.code_interpreter_call_code.delta": _CALL,
    "response.reasoning_text.delta": _REASONING,
    "response.reasoning.delta": _REASONING,
    "response.reasoning_summary_text.delta": _SUMMARY,
    "response.reasoning_summary.delta": _SUMMARY,
}

#: The same, of a chat's deltas.
_DELTA_MEMBERS = {"content": _TEXT, "reasoning_content": _REASONING, "reasoning": _REASONING}
#: Members of an event that repeat the output.
_REPEATING = {"response", "output"}

#: Index of the choice or of the output item, what kind of text it is, and the place therein (of the call).
Place: TypeAlias = tuple[int, str, int]


class Delivered:
    """Collects the generated text of one answer: of its stream's events, or of its one document.

    Each text has a buffer of its own (choices of one stream come interleaved), which takes one to four bytes a
    character however small the deltas are. Takes any JSON without raising.
    """

    __slots__ = ("_beyond", "_buffers", "_encrypted", "_messages", "_output", "_room")

    def __init__(self) -> None:
        self._buffers: dict[Place, StringIO] = {}
        #: By the same index: the tokens of reasoning that came encrypted.
        self._encrypted: dict[int, int] = {}
        #: Whole messages of choices: each choice's last one counts, and only where no deltas gave the same before.
        self._messages: dict[int, dict[str, Any]] = {}
        #: The whole output of the Responses API, which counts only where its stream gave nothing before.
        self._output: list[Any] = []
        self._room = _CHARS_MAX
        self._beyond = 0

    def add(self, document: Mapping[str, Any]) -> None:
        """One parsed answer, or one parsed event of a stream."""
        choices = document.get("choices")
        if choices is None:
            kind = document.get("type")
            if kind.__class__ is str:
                self._event(document, kind)
            self._keep_output(document)
            return
        if choices.__class__ is not list:
            return
        for choice in choices:
            if choice.__class__ is not dict:
                continue
            index = choice.get("index")
            if index.__class__ is not int:
                index = 0
            delta = choice.get("delta")
            if delta.__class__ is dict and delta:
                self._delta(index, delta)
            message = choice.get("message")
            if message.__class__ is dict:  # also beside a delta, cumulative, or beside an empty one (Perplexity)
                if index in self._messages or len(self._messages) < _BUFFERS_MAX:
                    self._messages[index] = message
            elif delta is None and (text := choice.get("text")).__class__ is str and text:
                self._write(index, _TEXT, text)

    def add_text(self, place: Place, text: str) -> None:
        """As `add`, of an event that adds one text (`only_text`)."""
        buffer = self._buffers.get(place)
        if buffer is None:
            if len(self._buffers) >= _BUFFERS_MAX:
                place = _REST, place[1], 0
            buffer = self._buffers.setdefault(place, StringIO())
        self._room -= len(text)
        if self._room < 0:
            self._room += len(text)
            self._beyond += len(text)
        else:
            buffer.write(text)

    def tokens(self, tokenizer: Tokenizer, model: str = "") -> Usage:
        """What all of it counts: reasoning by itself, and text, refusals and calls as text output.

        `model` is the one that answered, for what it writes around its text. Takes time linear in the text: call it
        off the event loop for a long one (`characters`). May be called again, also after more was added.
        """
        self._settle()
        name = model.lower().rpartition("/")[2]
        around_text, around_call = next((both for start, both in _AROUND if name.startswith(start)), _AROUND_ELSE)
        text = 0
        thought: dict[int, int] = {}
        summed_up: dict[int, int] = {}
        for (index, kind, _), buffer in self._buffers.items():
            count = tokenizer.count(buffer.getvalue())
            if kind == _REASONING:
                thought[index] = count
            elif kind == _SUMMARY:
                summed_up[index] = count
            else:
                text += count + (around_text if kind == _TEXT else around_call if kind == _CALL else 0)
        # A summary is of what was thought, in full or encrypted: so both are the same reasoning; the longer counts.
        places = thought.keys() | summed_up.keys() | self._encrypted.keys()
        reasoning = sum(
            max(thought.get(place) or summed_up.get(place, 0), self._encrypted.get(place, 0)) for place in places
        )
        return Usage(text_output=text + (self._beyond + 3) // 4, reasoning=reasoning)

    def characters(self) -> int:
        """How much text there is, to decide where to count it."""
        self._settle()
        return self.streamed()

    def streamed(self) -> int:
        """How many characters have come in deltas so far."""
        return sum(buffer.tell() for buffer in self._buffers.values()) + self._beyond

    def _settle(self) -> None:
        """Take in what was kept aside, where nothing came in deltas."""
        streamed = {index for index, _, _ in self._buffers} | self._encrypted.keys()
        for index, message in self._messages.items():
            if index not in streamed:
                self._delta(index, message)
        self._messages = {}
        if not streamed:
            for index, item in enumerate(self._output):
                self._item(index, item)
        self._output = []

    def _write(self, index: int, kind: str, text: str, place: int = 0) -> None:
        self.add_text((index, kind, place), text)

    def _delta(self, index: int, delta: dict[str, Any]) -> None:
        content = delta.get("content")
        if content:
            if content.__class__ is str:
                self._write(index, _TEXT, content)
            elif content.__class__ is list:
                self._parts(index, content)
            if len(delta) == 1:
                return
        reasoning = delta.get("reasoning_content") or delta.get("reasoning") or delta.get("reasoning_details")
        if reasoning:
            self._reasoning(index, reasoning)
        if details := delta.get("reasoning_details"):
            self._encrypted_details(index, details)
        refusal = delta.get("refusal")
        if refusal.__class__ is str and refusal:
            self._write(index, _TEXT, refusal)
        calls = delta.get("tool_calls")
        if calls.__class__ is list:
            for place, call in enumerate(calls):
                self._call(index, place, call)
        if function := delta.get("function_call"):
            self._called(index, 0, function)
        if isinstance(audio := delta.get("audio"), dict) and isinstance(transcript := audio.get("transcript"), str):
            self._write(index, _TEXT, transcript)

    def _reasoning(self, index: int, reasoning: Any) -> None:
        """Thinking, once: some upstreams give it under two or three names in the same delta."""
        if isinstance(reasoning, str):
            self._write(index, _REASONING, reasoning)
            return
        for detail in reasoning if isinstance(reasoning, list) else ():
            if isinstance(detail, dict):
                text = detail.get("text") or detail.get("summary")
                if isinstance(text, str):
                    self._write(index, _REASONING, text)

    def _encrypted_details(self, index: int, details: Any) -> None:
        """OpenRouter's: what came encrypted, beside its summary or without one."""
        for detail in details if isinstance(details, list) else ():
            if isinstance(detail, dict) and (tokens := encrypted_tokens(detail.get("data"))):
                if index not in self._encrypted and len(self._encrypted) >= _BUFFERS_MAX:
                    index = _REST
                self._encrypted[index] = self._encrypted.get(index, 0) + tokens

    def _parts(self, index: int, parts: list[Any]) -> None:
        """Content in parts, thinking among them (Mistral)."""
        for part in parts:
            if not isinstance(part, dict):
                continue
            for name in ("text", "refusal"):
                if isinstance(text := part.get(name), str):
                    self._write(index, _TEXT, text)
            if isinstance(thinking := part.get("thinking"), str | list):
                self._reasoning(index, thinking)

    def _call(self, index: int, place: int, call: Any) -> None:
        if call.__class__ is dict:
            at = call.get("index")
            self._called(index, at if at.__class__ is int else place, call.get("function") or call.get("custom"))

    def _called(self, index: int, place: int, function: Any) -> None:
        """A call: its name, which some upstreams repeat in every delta, and its arguments."""
        if function.__class__ is not dict:
            return
        if (index, _CALL, place) not in self._buffers:
            name = function.get("name")
            self._write(index, _CALL, name if name.__class__ is str else "", place)
        arguments = function.get("arguments") or function.get("input")
        if arguments:
            self._write(index, _CALL, arguments if arguments.__class__ is str else _written(arguments), place)

    def _event(self, document: Mapping[str, Any], kind: str) -> None:
        what = _DELTA_EVENTS.get(kind)
        index = document.get("output_index")
        if index.__class__ is not int:
            index = 0
        if what is not None:
            delta = document.get("delta")
            if delta.__class__ is str:
                self._write(index, what, delta)
        elif kind == "response.output_item.added":
            item = document.get("item")
            if isinstance(item, dict) and isinstance(name := item.get("name"), str):
                self._write(index, _NAME, name)
        elif kind == "response.output_item.done":
            self._item(index, document.get("item"))

    def _keep_output(self, document: Mapping[str, Any]) -> None:
        inner = document.get("response")
        output = (inner if inner.__class__ is dict else document).get("output")
        if output.__class__ is list and output:
            self._output = output

    def _item(self, index: int, item: Any) -> None:
        """A whole output item, unless its deltas came before: some upstreams give calls without any."""
        if not isinstance(item, dict):
            return
        thoughts = item.get("type") == "reasoning"
        if thoughts and (tokens := encrypted_tokens(item.get("encrypted_content"))):
            self._encrypted[index] = tokens
        if any((index, kind, 0) in self._buffers for kind in _WITHIN_ITEMS):
            return
        if thoughts:
            self._item_texts(index, _REASONING, item.get("content"))
            self._item_texts(index, _SUMMARY, item.get("summary"))
            return
        self._item_texts(index, _TEXT, item.get("content"))
        if isinstance(name := item.get("name"), str) and (index, _NAME, 0) not in self._buffers:
            self._write(index, _NAME, name)
        if given := item.get("arguments") or item.get("input") or item.get("code"):
            self._write(index, _CALL, _written(given))

    def _item_texts(self, index: int, kind: str, parts: Any) -> None:
        for part in parts if isinstance(parts, list) else ():
            if isinstance(part, dict):
                text = part.get("text") or part.get("refusal")
                if isinstance(text, str):
                    self._write(index, kind, text)


def only_text(event: Mapping[str, Any]) -> tuple[Place, str] | None:
    """The text that a stream's event adds, and where; None where that is none, or perhaps not all that it adds."""
    choices = event.get("choices")
    if choices is None:
        named, index, text = event.get("type"), event.get("output_index"), event.get("delta")
        kind = _DELTA_EVENTS.get(named, "") if isinstance(named, str) and not event.keys() & _REPEATING else ""
    elif isinstance(choices, list) and len(choices) == 1 and isinstance(choices[0], dict) and "type" not in event:
        kind, text = _only_text_in(choices[0])
        index = choices[0].get("index")
    else:
        return None
    if not kind or text.__class__ is not str or not text:
        return None
    return (index if index.__class__ is int else 0, kind, 0), text


def _only_text_in(choice: dict[str, Any]) -> tuple[str, Any]:
    """What kind of text a choice adds, empty for none or several, and the text."""
    if "message" in choice:
        return "", None
    delta = choice.get("delta")
    if delta is None:
        return _TEXT, choice.get("text")
    members = delta.items() if delta.__class__ is dict else ()
    said = [(name, value) for name, value in members if value and name != "role"]
    return (_DELTA_MEMBERS.get(said[0][0], ""), said[0][1]) if len(said) == 1 else ("", None)


def _written(value: Any) -> str:
    """Arguments as the model wrote them: text, which some upstreams give parsed."""
    if value is None or isinstance(value, str):
        return value or ""
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # deeper than it goes, or a number beyond 64 bits
        return ""
