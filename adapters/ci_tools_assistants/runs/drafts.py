"""What a model's turn becomes while it is written: a message, or a step of tool calls.

A draft turns the model's pieces into events and keeps what they add up to, so that the stored
object is what a reader of the events has. It stores and sends nothing itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ci_tools_assistants.objects import Object
from ci_tools_assistants.runs import events
from ci_tools_assistants.runs.events import Event
from ci_tools_assistants.runs.states import (
    MessageReason,
    complete_message,
    cut_message,
    end_message_with,
    end_step,
    end_step_with,
    new_message,
    new_step,
)


class MessageDraft:
    """A message of the assistant that is being written, with its `message_creation` step."""

    def __init__(
        self,
        run: Object,
        *,
        images: Sequence[str] = (),
        attachments: Sequence[Object] = (),
        now: int,
    ) -> None:
        self.message = new_message(run, attachments=list(attachments), now=now)
        creation = {"message_id": self.message["id"]}
        self.step = new_step(
            run, {"type": "message_creation", "message_creation": creation}, now=now
        )
        self.is_stored = False
        """Whether it was stored before, in whatever state."""

        self._images = images
        self._parts: list[Object] = []
        self._pieces: list[str] = []

    @property
    def is_ended(self) -> bool:
        """Whether the message has its end."""
        return bool(self.step["status"] != "in_progress")

    @property
    def has_content(self) -> bool:
        """Whether there is a part already."""
        return bool(self._parts)

    def begin(self) -> list[Event]:
        """Return the events of a message that begins; images come before its text."""
        started = [
            events.step_created(self.step),
            events.step_moved(self.step),
            events.message_created(self.message),
            events.message_moved(self.message),
        ]
        for file_id in self._images:
            part = {"type": "image_file", "image_file": {"file_id": file_id, "detail": "auto"}}
            started.append(events.part_delta(self.message["id"], len(self._parts), part))
            self._parts.append(part)
        return started

    def add_text(self, value: str) -> Event:
        """Take more text."""
        first = not self._pieces or self._parts[-1]["type"] != "text"
        if first:
            self._end_part()
            self._parts.append({"type": "text", "text": {"value": "", "annotations": []}})
        self._pieces.append(value)
        return events.text_delta(self.message["id"], len(self._parts) - 1, value, first=first)

    def add_refusal(self, value: str) -> Event:
        """Take more of the model's refusal to answer."""
        if not self._pieces or self._parts[-1]["type"] != "refusal":
            self._end_part()
            self._parts.append({"type": "refusal", "refusal": ""})
        self._pieces.append(value)
        return events.refusal_delta(self.message["id"], len(self._parts) - 1, value)

    def to_message(self) -> Object:
        """Return the message as it is so far."""
        self._write_part()
        return {**self.message, "content": list(self._parts)}

    def complete(
        self,
        annotate: Callable[[str], Sequence[Object]],
        *,
        usage: Object | None,
        now: int,
        reason: MessageReason | None = None,
    ) -> list[Event]:
        """End the message, cut for `reason` if there is one, with its annotations."""
        self._end_part()
        ended: list[Event] = []
        for index, part in enumerate(self._parts):
            if part["type"] != "text":
                continue
            text = part["text"]
            annotations = list(annotate(text["value"]))
            self._parts[index] = {**part, "text": {**text, "annotations": annotations}}
            ended += (
                events.annotation_delta(self.message["id"], index, number, annotation)
                for number, annotation in enumerate(annotations)
            )
        message = self.to_message()
        if reason is None:
            self.message = complete_message(message, now=now)
        else:
            self.message = cut_message(message, reason, now=now)
        self.step = end_step(self.step, "completed", usage=usage, now=now)
        return [*ended, events.message_moved(self.message), events.step_moved(self.step)]

    def end_with(self, run: Object, *, usage: Object | None, now: int) -> list[Event]:
        """End the message as its run has ended."""
        self.message = end_message_with(run, self.to_message(), now=now)
        self.step = end_step_with(run, self.step, usage=usage, now=now)
        return [events.message_moved(self.message), events.step_moved(self.step)]

    def _write_part(self) -> None:
        if not self._pieces:
            return
        value = "".join(self._pieces)
        self._pieces[:] = [value]
        part = self._parts[-1]
        if part["type"] == "text":
            self._parts[-1] = {"type": "text", "text": {"value": value, "annotations": []}}
        else:
            self._parts[-1] = {"type": "refusal", "refusal": value}

    def _end_part(self) -> None:
        self._write_part()
        self._pieces.clear()


@dataclass
class CallDraft:
    """A tool call that is being written or made."""

    index: int
    """Its place in the step."""

    id: str
    name: str
    is_code: bool
    pieces: list[str] = field(default_factory=list)
    """The code, or the function's arguments."""

    outputs: list[Object] = field(default_factory=list)
    """What code has put out so far."""

    logs: list[str] = field(default_factory=list)
    """The pieces of the last output, if that is logs."""

    output: str | None = None
    """What a function has answered."""

    @classmethod
    def of(cls, index: int, call: Object) -> "CallDraft":
        """Return the draft that a stored call was made of."""
        if call["type"] == "code_interpreter":
            made = call["code_interpreter"]
            draft = cls(index=index, id=call["id"], name="", is_code=True)
            draft.pieces, draft.outputs = [made["input"]], list(made["outputs"])
            return draft
        made = call["function"]
        draft = cls(index=index, id=call["id"], name=made["name"], is_code=False)
        draft.pieces, draft.output = [made["arguments"]], made["output"]
        return draft

    @property
    def written(self) -> str:
        """The code, or the function's arguments, as far as they are written."""
        return "".join(self.pieces)

    def to_object(self) -> Object:
        """Return the call as it is so far."""
        written = self.written
        if self.is_code:
            self.write_logs()
            made: Object = {"input": written, "outputs": list(self.outputs)}
            return {"id": self.id, "type": "code_interpreter", "code_interpreter": made}
        called = {"name": self.name, "arguments": written, "output": self.output}
        return {"id": self.id, "type": "function", "function": called}

    def write_logs(self) -> None:
        """Put the pieces of the last output into it."""
        if self.logs:
            self.logs[:] = ["".join(self.logs)]
            self.outputs[-1] = {"type": "logs", "logs": self.logs[0]}


class CallsDraft:
    """The `tool_calls` step of a turn that is being written and made."""

    def __init__(self, run: Object, *, now: int) -> None:
        self.step = new_step(run, {"type": "tool_calls", "tool_calls": []}, now=now)
        self.calls: list[CallDraft] = []
        self.is_stored = False
        """Whether it was stored before, in whatever state."""

        self.private: Object | None = None
        """What is stored with the step and never shown."""

    @classmethod
    def of(cls, run: Object, step: Object, private: Object) -> "CallsDraft":
        """Return the draft that a stored step was made of."""
        draft = cls(run, now=step["created_at"])
        calls = step["step_details"]["tool_calls"]
        draft.step, draft.private, draft.is_stored = step, private, True
        draft.calls = [CallDraft.of(index, call) for index, call in enumerate(calls)]
        return draft

    @property
    def is_ended(self) -> bool:
        """Whether the step has its end."""
        return bool(self.step["status"] != "in_progress")

    def begin(self) -> list[Event]:
        """Return the events of a step that begins."""
        return [events.step_created(self.step), events.step_moved(self.step)]

    def add_call(self, id: str, name: str, *, is_code: bool) -> tuple[CallDraft, Event]:
        """Take a new call."""
        call = CallDraft(index=len(self.calls), id=id, name=name, is_code=is_code)
        self.calls.append(call)
        if is_code:
            return call, events.code_started(self.step["id"], call.index, id)
        return call, events.function_started(self.step["id"], call.index, id, name)

    def add_written(self, call: CallDraft, piece: str) -> Event:
        """Take more code, or more of a function's arguments."""
        call.pieces.append(piece)
        if call.is_code:
            return events.code_delta(self.step["id"], call.index, piece)
        return events.arguments_delta(self.step["id"], call.index, piece)

    def add_logs(self, call: CallDraft, logs: str) -> Event:
        """Take more of what code prints; what follows each other is one output."""
        if not call.logs:
            call.outputs.append({"type": "logs", "logs": ""})
        call.logs.append(logs)
        return events.logs_delta(self.step["id"], call.index, len(call.outputs) - 1, logs)

    def add_image(self, call: CallDraft, file_id: str) -> Event:
        """Take an image that code has made."""
        call.write_logs()
        call.logs.clear()
        call.outputs.append({"type": "image", "image": {"file_id": file_id}})
        return events.image_delta(self.step["id"], call.index, len(call.outputs) - 1, file_id)

    def answer(self, call: CallDraft, output: str) -> Event:
        """Take the answer of a call that nobody is asked to make."""
        if call.is_code:
            return self.add_logs(call, output)
        call.output = output
        return events.output_delta(self.step["id"], call.index, output)

    def to_step(self) -> Object:
        """Return the step as it is so far."""
        calls = [call.to_object() for call in self.calls]
        return {**self.step, "step_details": {"type": "tool_calls", "tool_calls": calls}}

    def complete(self, *, usage: Object | None, now: int) -> list[Event]:
        """End the step."""
        self.step = end_step(self.to_step(), "completed", usage=usage, now=now)
        return [events.step_moved(self.step)]

    def end_with(self, run: Object, *, usage: Object | None, now: int) -> list[Event]:
        """End the step as its run has ended."""
        self.step = end_step_with(run, self.to_step(), usage=usage, now=now)
        return [events.step_moved(self.step)]
