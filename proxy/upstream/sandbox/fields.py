"""Reading the fields of a request's body, and refusing them in OpenAI's words."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]


class Refusal(Exception):
    """The request ends with OpenAI's error shape, `{"error": {message, type, param, code}}`."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.param = param
        self.code = code
        self.status = status

    def body(self) -> Json:
        detail = {"message": str(self), "type": "invalid_request_error", "param": self.param, "code": self.code}
        return {"error": detail}


def wrong_type(name: str, wanted: str) -> Refusal:
    return Refusal(f"Invalid type for '{name}': expected {wanted}.", param=name, code="invalid_type")


def missing(name: str) -> Refusal:
    return Refusal(f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter")


def model_of(body: Json) -> str:
    """The model as the client wrote it."""
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise Refusal("you must provide a model parameter", param="model")
    return model


def integer(body: Json, name: str, default: int | None, most: int | None = None) -> int | None:
    """A whole number from 1 to `most`, or `default` when the field is absent or null."""
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool):
        raise wrong_type(name, "an integer")
    if value < 1:
        words = f"Invalid '{name}': integer below minimum value. Expected a value >= 1, but got {value} instead."
        raise Refusal(words, param=name, code="integer_below_min_value")
    if most is not None and value > most:
        words = f"Invalid '{name}': integer above maximum value. Expected a value <= {most}, but got {value} instead."
        raise Refusal(words, param=name, code="integer_above_max_value")
    return value


def streaming(body: Json) -> bool:
    """Whether the answer is to be a stream. `stream_options` without a stream is refused, as OpenAI refuses it."""
    stream, options = body.get("stream"), body.get("stream_options")
    if stream is not None and not isinstance(stream, bool):
        raise wrong_type("stream", "a boolean")
    if options is None:
        return bool(stream)
    if not stream:
        words = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise Refusal(words, param="stream_options")
    if not isinstance(options, dict):
        raise wrong_type("stream_options", "an object")
    return True


def include_usage(body: Json) -> bool:
    """Whether a stream is to end with its usage: `stream_options.include_usage`."""
    options = body.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


def objects(body: Json, name: str) -> list[Json]:
    """A list of objects; an absent or null field is an empty list."""
    value = body.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise wrong_type(name, "an array of objects")
    return value


def inputs(value: Any, name: str, most: int) -> list[str | list[int]]:
    """What embeddings and the old completions take: a string, strings, one array of tokens, or several.

    At most `most` inputs come back, and at least one.
    """
    if isinstance(value, str) or _are_tokens(value):
        return [value]
    if not isinstance(value, list) or not all(isinstance(item, str) or _are_tokens(item) for item in value):
        raise wrong_type(name, "a string, an array of strings, or arrays of tokens")
    if not 1 <= len(value) <= most:
        raise Refusal(f"Invalid '{name}': expected an array of 1 to {most} inputs, but got {len(value)}.", param=name)
    return value


def _are_tokens(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)
