"""Every endpoint through an official Python client, whichever of the four it is."""

import inspect
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anyio.from_thread import BlockingPortal

from tests.adapters.assistants.contract.operations import FUNCTIONS
from tests.adapters.assistants.scripted.script import Gate, Request, Turn, Wait, turn

CODE: Any = {"type": "code_interpreter"}

HOLD = "Hold the line"
"""A message that the script of `holding` answers only when its gate is opened."""


class Blocking:
    """An asynchronous client (or part of one) whose calls are waited for in another thread."""

    def __init__(self, target: Any, portal: BlockingPortal) -> None:
        self._target = target
        self._portal = portal

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        is_part = hasattr(value, "_client") or callable(value)
        return Blocking(value, self._portal) if is_part else value

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        async def call() -> Any:
            result = self._target(*args, **kwargs)
            return await result if inspect.isawaitable(result) else result

        return self._portal.call(call)


def holding(gate: Gate, script: Callable[[Request], Turn]) -> Callable[[Request], Turn]:
    """Return a script that waits at the gate for one message and else follows another."""

    def answer(request: Request) -> Turn:
        return turn("One ", Wait(gate), "moment") if HOLD in request.last_text else script(request)

    return answer


def walk_assistants(client: Any) -> None:
    file = client.files.create(file=("a.csv", b"a,b\n"), purpose="assistants")
    made = client.beta.assistants.create(
        model="gpt-4o",
        name="Tutor",
        description="Helps",
        instructions="Help.",
        tools=[CODE, *FUNCTIONS.values()],
        tool_resources={"code_interpreter": {"file_ids": [file.id]}},
        metadata={"a": "b"},
        temperature=1,
        top_p=1,
        response_format="auto",
        reasoning_effort="low",
    )
    assert client.beta.assistants.retrieve(made.id).to_dict() == made.to_dict()
    changed = client.beta.assistants.update(made.id, name="Other")
    assert changed.name == "Other"
    assert changed.tools == made.tools
    assert client.beta.assistants.list(limit=1).data[0].id == made.id
    assert client.beta.assistants.delete(made.id).deleted


def walk_threads(client: Any) -> None:
    file = client.files.create(file=("a.csv", b"a,b\n"), purpose="assistants")
    attachments: Any = [{"file_id": file.id, "tools": [CODE]}]
    thread = client.beta.threads.create(
        messages=[{"role": "user", "content": "First", "attachments": attachments}],
        metadata={"a": "b"},
    )
    assert thread.tool_resources.code_interpreter.file_ids == [file.id]
    assert client.beta.threads.update(thread.id, metadata={"c": "d"}).metadata == {"c": "d"}
    assert client.beta.threads.retrieve(thread.id).metadata == {"c": "d"}
    messages = client.beta.threads.messages
    made = messages.create(
        thread.id,
        role="user",
        content=[{"type": "text", "text": "Second"}],
        attachments=attachments,
        metadata={"e": "f"},
    )
    assert made.content[0].text.value == "Second"
    assert made.attachments[0].file_id == file.id
    assert messages.retrieve(made.id, thread_id=thread.id).to_dict() == made.to_dict()
    changed = messages.update(made.id, thread_id=thread.id, metadata={"g": "h"})
    assert changed.metadata == {"g": "h"}
    listed = messages.list(thread.id, order="asc")
    assert [one.content[0].text.value for one in listed.data] == ["First", "Second"]
    assert messages.delete(made.id, thread_id=thread.id).deleted
    assert client.beta.threads.delete(thread.id).deleted


def walk_runs(client: Any) -> None:
    runs = client.beta.threads.runs
    assistant = client.beta.assistants.create(model="gpt-4o", tools=[CODE])
    thread = client.beta.threads.create(
        messages=[{"role": "user", "content": "Solve the equation"}]
    )
    run = runs.create_and_poll(
        thread_id=thread.id,
        assistant_id=assistant.id,
        additional_instructions="Be kind.",
        max_completion_tokens=1000,
        truncation_strategy={"type": "auto"},
        parallel_tool_calls=False,
        metadata={"a": "b"},
    )
    assert run.status == "completed", run.last_error
    assert runs.retrieve(run.id, thread_id=thread.id).to_dict() == run.to_dict()
    assert runs.update(run.id, thread_id=thread.id, metadata={"c": "d"}).metadata == {"c": "d"}
    assert [one.id for one in runs.list(thread.id).data] == [run.id]
    [wrote, ran] = runs.steps.list(run.id, thread_id=thread.id).data
    assert (wrote.type, ran.type) == ("message_creation", "tool_calls")
    found = runs.steps.retrieve(ran.id, thread_id=thread.id, run_id=run.id)
    assert found.to_dict() == ran.to_dict()
    assert ran.usage.total_tokens > 0
    again = client.beta.threads.create_and_run_poll(
        assistant_id=assistant.id,
        thread={"messages": [{"role": "user", "content": "Hello"}]},
    )
    assert again.status == "completed", again.last_error
    walk_cancelling(client, assistant.id)


def walk_cancelling(client: Any, assistant_id: str) -> None:
    runs = client.beta.threads.runs
    thread = client.beta.threads.create(messages=[{"role": "user", "content": HOLD}])
    run = runs.create(thread_id=thread.id, assistant_id=assistant_id)
    while runs.retrieve(run.id, thread_id=thread.id).status == "queued":
        time.sleep(0.01)
    assert runs.cancel(run.id, thread_id=thread.id).status in ("cancelling", "cancelled")
    done = runs.poll(run.id, thread_id=thread.id)
    while done.status == "cancelling":  # the helper of some versions takes it for an end
        done = runs.retrieve(run.id, thread_id=thread.id)
    assert done.status == "cancelled"


def walk_functions(client: Any) -> None:
    runs = client.beta.threads.runs
    assistant = client.beta.assistants.create(model="gpt-4o", tools=list(FUNCTIONS.values()))
    thread = client.beta.threads.create(
        messages=[{"role": "user", "content": "How is the weather?"}]
    )
    run = runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id)
    assert run.status == "requires_action", run.last_error
    calls = run.required_action.submit_tool_outputs.tool_calls
    assert [call.function.name for call in calls] == list(FUNCTIONS)
    run = runs.submit_tool_outputs_and_poll(
        run_id=run.id,
        thread_id=thread.id,
        tool_outputs=[{"tool_call_id": call.id, "output": "22C"} for call in calls],
    )
    assert run.status == "completed", run.last_error
    text = client.beta.threads.messages.list(thread.id).data[0].content[0].text.value
    assert text == "It is 22C in Los Angeles today, which people call 22C."


def walk_files(client: Any, folder: Path) -> None:
    path = folder / "notes.txt"
    path.write_bytes(b"some notes")
    made = client.files.create(file=path, purpose="assistants")
    assert (made.filename, made.bytes) == ("notes.txt", 10)
    assert client.files.retrieve(made.id).to_dict() == made.to_dict()
    assert made.id in [one.id for one in client.files.list(purpose="assistants").data]
    assert client.files.content(made.id).content == b"some notes"
    assert client.files.wait_for_processing(made.id).status == "processed"
    assert client.files.delete(made.id).deleted


def walk_uploads(client: Any, folder: Path) -> None:
    done = client.uploads.upload_file_chunked(
        file=b"0123456789" * 10,
        filename="big.txt",
        bytes=100,
        mime_type="text/plain",
        purpose="assistants",
        part_size=30,
    )
    assert done.status == "completed"
    assert client.files.content(done.file.id).content == b"0123456789" * 10
    other = client.uploads.create(
        bytes=5, filename="a.txt", mime_type="text/plain", purpose="assistants"
    )
    assert client.uploads.cancel(other.id).status == "cancelled"


def walk_models(client: Any) -> None:
    for model in client.models.list().data:
        assert client.models.retrieve(model.id).to_dict() == model.to_dict()


def walk_containers(client: Any) -> None:
    made = client.containers.create(name="Mine")
    assert client.containers.retrieve(made.id).name == "Mine"
    assert made.id in [one.id for one in client.containers.list().data]
    file = client.containers.files.create(made.id, file=("a.txt", b"hello"))
    assert [one.id for one in client.containers.files.list(made.id).data] == [file.id]
    assert client.containers.files.retrieve(file.id, container_id=made.id).bytes == 5
    content = client.containers.files.content.retrieve(file.id, container_id=made.id)
    assert content.content == b"hello"
    client.containers.files.delete(file.id, container_id=made.id)
    client.containers.delete(made.id)
