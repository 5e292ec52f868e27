"""The events of a streamed run: their names, delta objects and frames. All of it is pure.

How this works: an event is a name and the object it is about. Run, step and message events carry
the whole object as it is stored; only the deltas are shapes of their own. Lists inside deltas carry
an `index`, which stored objects never do, and client libraries put the pieces together by it: so
what all deltas of a thing add up to must be exactly the thing that is stored.
https://platform.openai.com/docs/api-reference/assistants-streaming/events
"""

import json
from dataclasses import dataclass

from ci_tools_assistants.errors import ApiError
from ci_tools_assistants.objects import Object

DONE_FRAME = b"event: done\ndata: [DONE]\n\n"

KEEP_ALIVE_FRAME = b": keep-alive\n\n"
"""A comment, which clients skip; proxies see that the connection lives."""

EVENT_STREAM = "text/event-stream; charset=utf-8"

STREAM_HEADERS = {
    "cache-control": "no-cache",
    "x-accel-buffering": "no",  # or nginx would hand over a stream in one piece
}

_CLOSING = "The service is closing. The run goes on when it is there again: retrieve it then."


@dataclass(frozen=True)
class Event:
    """What happened (`name`) to which object."""

    name: str
    data: Object


def to_frame(event: Event) -> bytes:
    """Return an event as it is sent.

    The JSON is ASCII: older clients split the stream at every character that Unicode calls the end
    of a line, also inside of a string.
    """
    data = json.dumps(event.data, separators=(",", ":"))
    return f"event: {event.name}\ndata: {data}\n\n".encode("ascii")


def thread_created(thread: Object) -> Event:
    """Return the first event of a thread that was made together with its run."""
    return Event("thread.created", thread)


def run_created(run: Object) -> Event:
    """Return the first event of a run."""
    return Event("thread.run.created", run)


def run_moved(run: Object) -> Event:
    """Return the event of the state that a run is in now."""
    return Event(f"thread.run.{run['status']}", run)


def step_created(step: Object) -> Event:
    """Return the first event of a step."""
    return Event("thread.run.step.created", step)


def step_moved(step: Object) -> Event:
    """Return the event of the state that a step is in now."""
    return Event(f"thread.run.step.{step['status']}", step)


def message_created(message: Object) -> Event:
    """Return the first event of a message."""
    return Event("thread.message.created", message)


def message_moved(message: Object) -> Event:
    """Return the event of the state that a message is in now."""
    return Event(f"thread.message.{message['status']}", message)


def failed(error: ApiError) -> Event:
    """Return the event that makes client libraries raise: it needs the key `error`."""
    return Event("error", error.to_object())


def run_failed(run: Object) -> Event:
    """Return the event that makes client libraries raise the error of a run."""
    error = run["last_error"]
    return failed(ApiError(500, error["message"], type="server_error", code=error["code"]))


def closing() -> Event:
    """Return the last event of a stream that the end of the service cuts off; its run goes on."""
    return failed(ApiError(503, _CLOSING, type="server_error"))


def text_delta(message_id: str, index: int, value: str, *, first: bool) -> Event:
    """Return more text of a part; the first piece says that there are no annotations yet."""
    text: Object = {"value": value, "annotations": []} if first else {"value": value}
    return _message_delta(message_id, {"index": index, "type": "text", "text": text})


def annotation_delta(message_id: str, index: int, number: int, annotation: Object) -> Event:
    """Return the annotation with that number of the text part at `index`."""
    # The text is empty, not missing: printed samples write `delta.value` without a look at it.
    text = {"value": "", "annotations": [{"index": number, **annotation}]}
    return _message_delta(message_id, {"index": index, "type": "text", "text": text})


def refusal_delta(message_id: str, index: int, refusal: str) -> Event:
    """Return more of a refusal."""
    return _message_delta(message_id, {"index": index, "type": "refusal", "refusal": refusal})


def part_delta(message_id: str, index: int, part: Object) -> Event:
    """Return a whole part of a message, such as an image."""
    return _message_delta(message_id, {"index": index, **part})


def code_started(step_id: str, index: int, call_id: str) -> Event:
    """Return the first delta of a call of the code interpreter."""
    return _step_delta(
        step_id,
        {
            "index": index,
            "id": call_id,
            "type": "code_interpreter",
            "code_interpreter": {"input": "", "outputs": []},
        },
    )


def code_delta(step_id: str, index: int, code: str) -> Event:
    """Return more of the code that the model writes."""
    return _code_delta(step_id, index, {"input": code})


def logs_delta(step_id: str, index: int, output: int, logs: str) -> Event:
    """Return more of the logs that are the call's output number `output`."""
    return _code_delta(
        step_id, index, {"outputs": [{"index": output, "type": "logs", "logs": logs}]}
    )


def image_delta(step_id: str, index: int, output: int, file_id: str) -> Event:
    """Return the image that is the call's output number `output`."""
    image = {"index": output, "type": "image", "image": {"file_id": file_id}}
    return _code_delta(step_id, index, {"outputs": [image]})


def function_started(step_id: str, index: int, call_id: str, name: str) -> Event:
    """Return the first delta of a call of a function."""
    return _step_delta(
        step_id,
        {
            "index": index,
            "id": call_id,
            "type": "function",
            "function": {"name": name, "arguments": "", "output": None},
        },
    )


def arguments_delta(step_id: str, index: int, arguments: str) -> Event:
    """Return more of a function's arguments."""
    return _step_delta(
        step_id, {"index": index, "type": "function", "function": {"arguments": arguments}}
    )


def output_delta(step_id: str, index: int, output: str) -> Event:
    """Return a function's output."""
    return _step_delta(
        step_id, {"index": index, "type": "function", "function": {"output": output}}
    )


def _message_delta(message_id: str, part: Object) -> Event:
    data = {"id": message_id, "object": "thread.message.delta", "delta": {"content": [part]}}
    return Event("thread.message.delta", data)


def _code_delta(step_id: str, index: int, fields: Object) -> Event:
    return _step_delta(
        step_id, {"index": index, "type": "code_interpreter", "code_interpreter": fields}
    )


def _step_delta(step_id: str, call: Object) -> Event:
    details = {"type": "tool_calls", "tool_calls": [call]}
    data = {
        "id": step_id,
        "object": "thread.run.step.delta",
        "delta": {"step_details": details},
    }
    return Event("thread.run.step.delta", data)
