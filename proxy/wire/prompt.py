"""What a request's body costs in input tokens, estimated before (or without) the upstream's own count."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from proxy.wire import attachments
from proxy.wire.tokens import Tokenizer

#: What stands around messages, as published (OpenAI cookbook, "How to count tokens with tiktoken", sections 6 and 7).
_PER_MESSAGE = 3
_PER_NAME = 1
_PRIMING = 3  # every reply is primed with <|start|>assistant<|message|>

#: And what stands around tools, for gpt-4o and later (the same place). Older models have 10 for the first.
_PER_FUNCTION = 7
_PER_PROPERTIES = 3
_PER_PROPERTY = 3
_PER_ENUM = -3
_PER_ENUM_ITEM = 3
_FUNCTIONS_END = 12

#: The system message that gpt-oss begins every prompt with (its published chat format, "harmony"), as far as it does
#: not depend on the request. So counted in recordings of Groq, Cerebras and Ollama; Bedrock leaves it out.
_HARMONY_SYSTEM = 64

#: Ends the thoughts that an earlier answer began with. The published chat templates of the models that write it
#: (DeepSeek-R1, Qwen3, GLM) leave them out of the prompt.
_THOUGHT_END = "</think>"

#: Nested deeper than this, nothing is counted: no honest request is, and each level is a call.
_DEPTH_MAX = 32


def input_tokens(endpoint: str, body: Mapping[str, Any], tokenizer: Tokenizer) -> int:
    """The input tokens of a request to `endpoint` (`/v1/chat/completions` …); 0 for one that is not known.

    Takes any JSON without raising, in time linear in its size: so call it off the event loop for a large body.
    Not counted, because the body does not tell: what the upstream puts around it (hidden system prompts, stored
    conversations and prompts, tools of its own).
    """
    model = body.get("model")
    ask = _Ask(tokenizer, model.lower().rpartition("/")[2] if isinstance(model, str) else "")
    match endpoint:
        case "/v1/chat/completions":
            return ask.chat(body)
        case "/v1/responses":
            return ask.responses(body)
        case "/v1/completions":
            return ask.plain(body.get("prompt")) + ask.plain(body.get("suffix"))
        case "/v1/embeddings" | "/v1/moderations":
            return ask.plain(body.get("input"))
    return 0


class _Ask:
    """Counts one body."""

    def __init__(self, tokenizer: Tokenizer, model: str) -> None:
        self._count = tokenizer.count
        self._model = model

    def chat(self, body: Mapping[str, Any]) -> int:
        tokens = self._opening()
        for message in _list(body.get("messages")):
            tokens += self._message(message)
        if "tools" in body or "functions" in body:
            tokens += self._tools([*_list(body.get("tools")), *_list(body.get("functions"))])
        return tokens + self._format(body.get("response_format"))

    def responses(self, body: Mapping[str, Any]) -> int:
        tokens = self._opening()
        given = body.get("input")
        items = [{"role": "user", "content": given}] if isinstance(given, str) else _list(given)
        if isinstance(body.get("instructions"), str):
            items = [{"role": "developer", "content": body["instructions"]}, *items]
        # Earlier reasoning is shown again within one turn (between calls), and no longer after the next user message.
        turn = max((at for at, item in enumerate(items) if _is_user(item)), default=-1)
        tokens += sum(self._item(item) for item in items)
        tokens += sum(attachments.encrypted_tokens(_encrypted(item)) for item in items[turn + 1 :])
        tokens += self._tools(_list(body.get("tools")))
        text = body.get("text")
        return tokens + (self._format(text.get("format")) if isinstance(text, dict) else 0)

    def _opening(self) -> int:
        return _PRIMING + (_HARMONY_SYSTEM if self._model.startswith("gpt-oss") else 0)

    def plain(self, value: Any, depth: int = 0) -> int:
        """A prompt or an input: text, texts, token ids, or lists of these; parts where images are taken, too."""
        if isinstance(value, str):
            return self._count(value)
        if isinstance(value, list) and depth < _DEPTH_MAX:
            return sum(1 if isinstance(one, int) else self.plain(one, depth + 1) for one in value)
        return self._part(value, depth) if isinstance(value, dict) else 0

    def _message(self, message: Any) -> int:
        if not isinstance(message, dict):
            return 0
        content = message.get("content")
        if message.get("role") == "assistant" and isinstance(content, str):
            content = content.rpartition(_THOUGHT_END)[2]
        tokens = _PER_MESSAGE + self._text(message.get("role")) + self._content(content)
        if len(message) == 2 and content is not None and "role" in message:
            return tokens  # nothing but these two
        if isinstance(message.get("name"), str):
            tokens += _PER_NAME + self._text(message["name"])
        for call in _list(message.get("tool_calls")):
            tokens += self._call(call)
        tokens += self._called(message.get("function_call"))
        return tokens + self._text(message.get("refusal"))

    def _call(self, call: Any) -> int:
        if not isinstance(call, dict):
            return 0
        return self._called(call.get("function")) + self._called(call.get("custom"))

    def _called(self, function: Any) -> int:
        """A call in the history: to whom, and with what. A call is a message of its own in the model's format."""
        if not isinstance(function, dict):
            return 0
        arguments = function.get("arguments", function.get("input"))
        return _PER_MESSAGE + self._text(function.get("name")) + self._json(arguments)

    def _item(self, item: Any) -> int:
        """An item of the Responses API: a message, a call, what a call gave, or an earlier reasoning."""
        if not isinstance(item, dict):
            return self._text(item)
        if "role" in item:
            return self._message(item)
        if item.get("type") == "reasoning":  # see `responses`; where it came open, as far as it is no OpenAI model's
            return self._content(item.get("content"))
        tokens = _PER_MESSAGE + self._content(item.get("content"))
        tokens += self._text(item.get("name")) + self._json(item.get("arguments", item.get("input")))
        return tokens + self._content(item.get("output")) + self._tools(_list(item.get("tools")))

    def _content(self, content: Any, depth: int = 0) -> int:
        if isinstance(content, str):
            return self._count(content)
        if isinstance(content, list) and depth < _DEPTH_MAX:
            return sum(self._part(part, depth + 1) for part in content)
        return self._part(content, depth) if isinstance(content, dict) else 0

    def _part(self, part: Any, depth: int) -> int:
        if not isinstance(part, dict):
            return self._content(part, depth)
        match part.get("type"):
            case "image_url" | "input_image" | "image":
                image = part.get("image_url", part.get("image"))
                detail = image.get("detail") if isinstance(image, dict) else part.get("detail")
                return attachments.image_tokens(attachments.url_of(image), detail, self._model)
            case "input_audio":
                audio = part.get("input_audio")
                data = audio.get("data") if isinstance(audio, dict) else audio
                return attachments.audio_tokens(data) if isinstance(data, str) else 0
            case "file" | "input_file" | "document_url" | "file_url" | "video_url":
                return self._file(part)
            case "thinking":
                return self._content(part.get("thinking"), depth + 1)
        return sum(self._text(part.get(name)) for name in ("text", "refusal"))

    def _file(self, part: dict[str, Any]) -> int:
        file = part.get("file")
        holder = file if isinstance(file, dict) else part
        names = ("file_data", "file_url", "document_url", "video_url")
        data = next((url for name in names if (url := attachments.url_of(holder.get(name)))), "")
        text = attachments.plain_text(data)
        if text is None and isinstance(file, str) and not data:
            text = file
        return attachments.document_tokens(data) if text is None else self._count(text)

    def _format(self, asked: Any) -> int:
        """A JSON schema that the answer must keep to: it is shown to the model. (How is not published: as JSON.)"""
        if not isinstance(asked, dict) or asked.get("type") != "json_schema":
            return 0
        inner = asked.get("json_schema")
        return self._json((inner if isinstance(inner, dict) else asked).get("schema"))

    def _tools(self, tools: list[Any]) -> int:
        tokens = sum(self._tool(tool) for tool in tools)
        return tokens + _FUNCTIONS_END if tokens else 0

    def _tool(self, tool: Any, depth: int = 0) -> int:
        if not isinstance(tool, dict) or depth > _DEPTH_MAX:
            return 0
        if isinstance(inner := tool.get("tools"), list):  # a namespace of tools
            return sum(self._tool(one, depth + 1) for one in inner)
        function = tool.get("function", tool.get("custom"))
        if not isinstance(function, dict):
            function = tool  # the Responses API, and the older `functions`
        if not isinstance(function.get("name"), str):
            return 0  # a tool of the upstream's own
        line = f"{function['name']}:{_described(function)}"
        return _PER_FUNCTION + self._count(line) + self._properties(function.get("parameters"), depth)

    def _properties(self, schema: Any, depth: int) -> int:
        """The published rule knows one level of properties; what nests deeper is counted by the same rule."""
        if not isinstance(schema, dict) or depth > _DEPTH_MAX:
            return 0
        properties = schema.get("properties")
        if not isinstance(properties, dict) or not properties:
            return self._properties(schema.get("items"), depth + 1)
        return _PER_PROPERTIES + sum(self._property(name, one, depth) for name, one in properties.items())

    def _property(self, name: str, schema: Any, depth: int) -> int:
        if not isinstance(schema, dict):
            return _PER_PROPERTY + self._count(name)
        tokens = _PER_PROPERTY
        if items := _list(schema.get("enum")):
            tokens += _PER_ENUM + sum(_PER_ENUM_ITEM + self._json(one) for one in items)
        kind = schema.get("type")
        tokens += self._count(f"{name}:{kind if isinstance(kind, str) else ''}:{_described(schema)}")
        return tokens + self._properties(schema, depth + 1)

    def _text(self, value: Any) -> int:
        return self._count(value) if isinstance(value, str) else 0

    def _json(self, value: Any) -> int:
        if value is None or isinstance(value, str):
            return self._text(value)
        try:
            return self._count(orjson.dumps(value).decode())
        except TypeError:  # nested too deeply for it, or a number beyond 64 bits: then the texts alone
            return sum(self._count(text) for text in _texts(value))


def _is_user(item: Any) -> bool:
    return isinstance(item, dict) and item.get("role") == "user"


def _encrypted(item: Any) -> Any:
    return item.get("encrypted_content") if isinstance(item, dict) else None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _described(holder: dict[str, Any]) -> str:
    described = holder.get("description")
    return described.removesuffix(".") if isinstance(described, str) else ""


def _texts(value: Any) -> list[str]:
    """Every string within, names included, however deeply nested."""
    found, rest = [], [value]
    while rest:
        one = rest.pop()
        if isinstance(one, str):
            found.append(one)
        elif isinstance(one, dict):
            rest += one.keys()
            rest += one.values()
        elif isinstance(one, list):
            rest += one
    return found
