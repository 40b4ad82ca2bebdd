"""The sandbox: a fake of OpenAI's API that answers when the operator has set no upstream key.

It lets a newcomer watch the proxy work without an account. It is a real HTTP server on a loopback port of its own, so
every stage of the proxy runs as it would against the real thing. For the same request the text and the usage are the
same each time; only ids and times differ, as they do in reality.

    server      the thread, the port, start and stop
    app         routes, headers, JSON in and out, errors
    chat, completions, responses, embeddings, models
                one endpoint each: a body in, an answer or the events of a stream out; no I/O
    draft       what the model says, and what a prompt costs
    text        the tokenizer
    schema      the smallest value that fits a JSON schema
    fields      reading a body, and refusing it in OpenAI's words
"""

from proxy.upstream.sandbox.app import create_sandbox
from proxy.upstream.sandbox.server import Sandbox

__all__ = ["Sandbox", "create_sandbox"]
