"""What the stream helpers of the newest Python client add up to."""

from typing import Any

from openai import AssistantEventHandler, AsyncAssistantEventHandler, OpenAI
from openai.types.beta.threads import Message, MessageDelta
from openai.types.beta.threads.runs import RunStep, RunStepDelta
from typing_extensions import override


class Sums:
    """What the deltas of a stream add up to, by id, as the helpers add them up."""

    def __init__(self) -> None:
        self.messages: dict[str, Any] = {}
        self.steps: dict[str, Any] = {}
        self.text = ""

    def add_message(self, snapshot: Message) -> None:
        self.messages[snapshot.id] = without_index(snapshot.to_dict()["content"])

    def add_step(self, snapshot: RunStep) -> None:
        self.steps[snapshot.id] = without_index(snapshot.to_dict()["step_details"])


class Handler(AssistantEventHandler):
    def __init__(self) -> None:
        super().__init__()
        self.sums = Sums()
        self.calls: list[str] = []

    @override
    def on_message_delta(self, delta: MessageDelta, snapshot: Message) -> None:
        self.sums.add_message(snapshot)

    @override
    def on_run_step_delta(self, delta: RunStepDelta, snapshot: RunStep) -> None:
        self.sums.add_step(snapshot)

    @override
    def on_text_created(self, text: Any) -> None:
        self.calls.append("text created")

    @override
    def on_text_delta(self, delta: Any, snapshot: Any) -> None:
        self.sums.text += delta.value or ""

    @override
    def on_text_done(self, text: Any) -> None:
        self.calls.append("text done")

    @override
    def on_tool_call_created(self, tool_call: Any) -> None:
        self.calls.append(f"{tool_call.type} created")

    @override
    def on_tool_call_done(self, tool_call: Any) -> None:
        self.calls.append(f"{tool_call.type} done")

    @override
    def on_message_done(self, message: Message) -> None:
        self.calls.append("message done")

    @override
    def on_end(self) -> None:
        self.calls.append("end")


class AsyncHandler(AsyncAssistantEventHandler):
    def __init__(self) -> None:
        super().__init__()
        self.sums = Sums()

    @override
    async def on_message_delta(self, delta: MessageDelta, snapshot: Message) -> None:
        self.sums.add_message(snapshot)

    @override
    async def on_run_step_delta(self, delta: RunStepDelta, snapshot: RunStep) -> None:
        self.sums.add_step(snapshot)


def without_index(value: Any) -> Any:
    """Return the value without the indices that only deltas have."""
    if isinstance(value, dict):
        return {key: without_index(one) for key, one in value.items() if key != "index"}
    return [without_index(one) for one in value] if isinstance(value, list) else value


def assert_equal_to_stored(client: OpenAI, sums: Sums, thread_id: str, run_id: str) -> None:
    steps = client.beta.threads.runs.steps.list(run_id, thread_id=thread_id).data
    calls = {step.id: step.to_dict()["step_details"] for step in steps if step.type == "tool_calls"}
    assert sums.steps == calls
    messages = client.beta.threads.messages.list(thread_id, run_id=run_id).data
    assert sums.messages == {message.id: message.to_dict()["content"] for message in messages}
