"""Turns as OpenAI's chat completions."""

import json
import time
from collections.abc import Iterator
from typing import Any

from tests.adapters.assistants.scripted.script import (
    Body,
    Break,
    CallTool,
    Cut,
    Fail,
    Refuse,
    Request,
    Say,
    Think,
    Turn,
    Usage,
    Wait,
)

_REASONS = {"refusal": "stop"}
"""Reasons that this shape has other words for."""


def stream(request: Request, turn: Turn) -> Iterator[bytes | Wait | Cut]:
    """Yield the events of a streamed answer."""
    frame = _Frame(request)
    yield frame.delta({"role": "assistant", "content": ""})
    index = -1
    for part in turn.parts:
        match part:
            case str() | Say():
                frame.mark()
                yield frame.delta({"content": part if isinstance(part, str) else part.text})
            case Think():
                yield frame.delta({"reasoning_content": part.text})
            case Refuse():
                frame.mark()
                yield frame.delta({"refusal": part.text})
            case CallTool():
                frame.mark()
                index += 1
                function = {"name": part.name, "arguments": ""}
                head = {"index": index, "id": _id(request, part, index), "type": "function"}
                yield frame.delta({"tool_calls": [{**head, "function": function}]})
                for text in part.fragments:
                    call = {"index": index, "function": {"arguments": text}}
                    yield frame.delta({"tool_calls": [call]})
            case Break():
                yield _event({"error": {"message": part.message, "code": part.code, "type": None}})
                return
            case _:
                yield part
    yield frame.delta({}, _REASONS.get(turn.reason, turn.reason))
    options = request.body.get("stream_options") or {}
    if options.get("include_usage") and turn.usage is not None:
        yield frame.usage(turn.usage)
    yield b"data: [DONE]\n\n"


def to_body(request: Request, turn: Turn) -> Body:
    """Return the body of a plain answer."""
    calls = [
        {
            "id": _id(request, call, index),
            "type": "function",
            "function": {"name": call.name, "arguments": call.text},
        }
        for index, call in enumerate(turn.calls)
    ]
    refusals = "".join(part.text for part in turn.parts if isinstance(part, Refuse))
    message: Body = {"role": "assistant", "content": turn.text, "refusal": refusals or None}
    if calls:
        message["tool_calls"] = calls
    reason = _REASONS.get(turn.reason, turn.reason)
    body: Body = {
        "id": f"chatcmpl-{request.number}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": request.model,
        "choices": [{"index": 0, "message": message, "finish_reason": reason, "logprobs": None}],
    }
    if turn.usage is not None:
        body["usage"] = _usage(turn.usage)
    return body


def to_error(fail: Fail) -> Body:
    """Return the body of a failure."""
    error = {"message": fail.message, "type": fail.type, "param": None, "code": fail.code}
    return {"error": error}


class _Frame:
    """The envelope of the chunks of one answer."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._envelope = {
            "id": f"chatcmpl-{request.number}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": request.model,
        }

    def mark(self) -> None:
        """Take note of the time of the first content."""
        if self._request.first_sent is None:
            self._request.first_sent = time.perf_counter()

    def delta(self, delta: dict[str, Any], reason: str | None = None) -> bytes:
        """Return one chunk."""
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        return _event({**self._envelope, "choices": [choice]})

    def usage(self, usage: Usage) -> bytes:
        """Return the last chunk, with the usage and no choice."""
        return _event({**self._envelope, "choices": [], "usage": _usage(usage)})


def _usage(usage: Usage) -> Body:
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }


def _id(request: Request, call: CallTool, index: int) -> str:
    return call.id or f"call_{request.number}x{index}"


def _event(body: Body) -> bytes:
    return f"data: {json.dumps(body)}\n\n".encode()
