"""Turns as OpenAI's Responses."""

import json
import time
from collections.abc import Iterator

from tests.adapters.assistants.scripted.chat import to_error as to_error  # the same shape
from tests.adapters.assistants.scripted.script import (
    Body,
    Break,
    CallTool,
    Cut,
    Refuse,
    Request,
    Say,
    Think,
    Turn,
    Wait,
)


def stream(request: Request, turn: Turn) -> Iterator[bytes | Wait | Cut]:
    """Yield the events of a streamed answer."""
    writer = _Writer(request)
    empty = {**_to_response(request, turn), "status": "in_progress", "output": [], "usage": None}
    yield writer.event("response.created", response=empty)
    items = iter(enumerate(_to_output(request, turn)))
    message: tuple[int, Body] | None = None
    for part in turn.parts:
        match part:
            case str() | Say() | Refuse():
                if message is None:
                    message = next(items)
                    yield from _start_message(writer, *message)
                yield _text(writer, part if isinstance(part, str) else part.text, *message)
            case CallTool():
                if message is not None:
                    yield from _end_message(writer, *message)
                    message = None
                yield from _call(writer, part, *next(items))
            case Break():
                yield writer.event("error", code=part.code, message=part.message, param=None)
                return
            case Think():
                pass
            case _:
                yield part
    if message is not None:
        yield from _end_message(writer, *message)
    response = _to_response(request, turn)
    yield writer.event(f"response.{response['status']}", response=response)


def to_body(request: Request, turn: Turn) -> Body:
    """Return the body of a plain answer."""
    return _to_response(request, turn)


def _start_message(writer: "_Writer", index: int, item: Body) -> Iterator[bytes]:
    yield writer.event(
        "response.output_item.added", output_index=index, item={**item, "content": []}
    )
    [content] = item["content"]
    field = "text" if content["type"] == "output_text" else "refusal"
    part = {**content, field: ""}
    yield writer.event("response.content_part.added", **_place(index, item), part=part)


def _text(writer: "_Writer", text: str, index: int, item: Body) -> bytes:
    writer.mark()
    kind = item["content"][0]["type"]
    extra: Body = {"logprobs": []} if kind == "output_text" else {}
    return writer.event(f"response.{kind}.delta", **_place(index, item), delta=text, **extra)


def _end_message(writer: "_Writer", index: int, item: Body) -> Iterator[bytes]:
    [content] = item["content"]
    kind = content["type"]
    field = "text" if kind == "output_text" else "refusal"
    extra: Body = {"logprobs": []} if kind == "output_text" else {}
    place = _place(index, item)
    yield writer.event(f"response.{kind}.done", **place, **{field: content[field]}, **extra)
    yield writer.event("response.content_part.done", **place, part=content)
    yield writer.event("response.output_item.done", output_index=index, item=item)


def _place(index: int, item: Body) -> Body:
    return {"item_id": item["id"], "output_index": index, "content_index": 0}


def _call(writer: "_Writer", call: CallTool, index: int, item: Body) -> Iterator[bytes]:
    place = {"item_id": item["id"], "output_index": index}
    writer.mark()
    yield writer.event(
        "response.output_item.added", output_index=index, item={**item, "arguments": ""}
    )
    for text in call.fragments:
        yield writer.event("response.function_call_arguments.delta", **place, delta=text)
    yield writer.event(
        "response.function_call_arguments.done", **place, arguments=call.text, name=call.name
    )
    yield writer.event("response.output_item.done", output_index=index, item=item)


def _to_output(request: Request, turn: Turn) -> list[Body]:
    """Return one message for each run of text, and one item for each call."""
    output: list[Body] = []
    for part in turn.parts:
        number = len(output)
        match part:
            case str() | Say() | Refuse():
                text = part if isinstance(part, str) else part.text
                field = "refusal" if isinstance(part, Refuse) else "text"
                if output and output[-1]["type"] == "message":
                    output[-1]["content"][0][field] += text
                    continue
                content: Body = {"type": "refusal", "refusal": text}
                if field == "text":
                    content = {"type": "output_text", "text": text}
                    content |= {"annotations": [], "logprobs": []}
                output.append(
                    {
                        "type": "message",
                        "id": f"msg_{request.number}x{number}",
                        "role": "assistant",
                        "status": "completed",
                        "content": [content],
                    }
                )
            case CallTool():
                output.append(
                    {
                        "type": "function_call",
                        "id": f"fc_{request.number}x{number}",
                        "call_id": part.id or f"call_{request.number}x{number}",
                        "name": part.name,
                        "arguments": part.text,
                        "status": "completed",
                    }
                )
            case _:
                pass
    return output


def _to_response(request: Request, turn: Turn) -> Body:
    reasons = {"length": "max_output_tokens", "content_filter": "content_filter"}
    reason = reasons.get(turn.reason)
    usage = turn.usage
    return {
        "id": f"resp_{request.number}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "incomplete" if reason else "completed",
        "error": None,
        "incomplete_details": {"reason": reason} if reason else None,
        "instructions": None,
        "metadata": {},
        "model": request.model,
        "output": _to_output(request, turn),
        "parallel_tool_calls": True,
        "temperature": None,
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        "usage": usage
        and {
            "input_tokens": usage.prompt,
            "input_tokens_details": {"cached_tokens": usage.cached},
            "output_tokens": usage.completion,
            "output_tokens_details": {"reasoning_tokens": usage.reasoning},
            "total_tokens": usage.prompt + usage.completion,
        },
    }


class _Writer:
    """Numbers the events of one answer."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._number = -1

    def mark(self) -> None:
        """Take note of the time of the first content."""
        if self._request.first_sent is None:
            self._request.first_sent = time.perf_counter()

    def event(self, name: str, /, **fields: object) -> bytes:
        """Return one event."""
        self._number += 1
        body = {"type": name, "sequence_number": self._number, **fields}
        return f"event: {name}\ndata: {json.dumps(body)}\n\n".encode()
