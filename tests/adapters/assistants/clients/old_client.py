# mypy: ignore-errors
"""The last Python client of version 1, in an environment of its own: every resource, and streams.

It is a script for `openai` 1.20.0; the tests run it with OPENAI_BASE_URL and OPENAI_API_KEY set.
"""

import asyncio
import json

from openai import AssistantEventHandler, AsyncOpenAI, NotFoundError, OpenAI

CODE = {"type": "code_interpreter"}

client = OpenAI(max_retries=0, _strict_response_validation=True)
beta = client.beta


def walk_assistants():
    file = client.files.create(file=("a.csv", b"a,b\n"), purpose="assistants")
    tools = [CODE, {"type": "retrieval"}]
    made = beta.assistants.create(model="gpt-4", name="Tutor", tools=tools, file_ids=[file.id])
    assert made.file_ids == [file.id]
    assert [tool.type for tool in made.tools] == ["code_interpreter", "retrieval"]
    assert beta.assistants.retrieve(made.id) == made
    assert beta.assistants.update(made.id, name="Other").file_ids == [file.id]
    assert beta.assistants.list(limit=1).data[0].id == made.id
    assert beta.assistants.files.list(made.id).data[0].id == file.id
    assert beta.assistants.files.retrieve(file.id, assistant_id=made.id).id == file.id
    assert beta.assistants.files.delete(file.id, assistant_id=made.id).deleted
    again = beta.assistants.files.create(made.id, file_id=file.id)
    assert again.assistant_id == made.id
    assert beta.assistants.delete(made.id).deleted
    try:
        beta.assistants.retrieve(made.id)
    except NotFoundError as error:
        assert error.body["message"] == f"No assistant found with id '{made.id}'."
    else:
        raise AssertionError("it is still there")


def walk_threads():
    file = client.files.create(file=("a.csv", b"a,b\n"), purpose="assistants")
    thread = beta.threads.create(messages=[{"role": "user", "content": "First"}])
    made = beta.threads.messages.create(
        thread.id, role="user", content="Second", file_ids=[file.id]
    )
    assert made.file_ids == [file.id]
    at = {"thread_id": thread.id}
    assert beta.threads.messages.retrieve(made.id, **at) == made
    assert beta.threads.messages.update(made.id, **at, metadata={"a": "b"}).metadata == {"a": "b"}
    assert len(beta.threads.messages.list(thread.id).data) == 2
    [found] = beta.threads.messages.files.list(made.id, **at).data
    assert found.message_id == made.id
    assert beta.threads.messages.files.retrieve(file.id, message_id=made.id, **at) == found
    assert beta.threads.update(thread.id, metadata={"a": "b"}).metadata == {"a": "b"}
    assert beta.threads.delete(thread.id).deleted


def walk_runs():
    assistant = beta.assistants.create(model="gpt-4", tools=[CODE])
    run = beta.threads.create_and_run(
        assistant_id=assistant.id,
        thread={"messages": [{"role": "user", "content": "Solve the equation"}]},
    )
    run = beta.threads.runs.poll(run.id, thread_id=run.thread_id, poll_interval_ms=50)
    assert run.status == "completed", run.last_error
    assert run.file_ids == []
    at = {"thread_id": run.thread_id}
    assert beta.threads.runs.update(run.id, **at, metadata={"a": "b"}).metadata == {"a": "b"}
    steps = beta.threads.runs.steps.list(run.id, **at).data
    assert [step.type for step in steps] == ["message_creation", "tool_calls"]
    assert beta.threads.runs.steps.retrieve(steps[1].id, run_id=run.id, **at) == steps[1]
    assert steps[1].step_details.tool_calls[0].code_interpreter.outputs[0].logs == "1.0"


class Handler(AssistantEventHandler):
    def __init__(self):
        super().__init__()
        self.messages, self.steps = {}, {}

    def on_message_delta(self, delta, snapshot):
        self.messages[snapshot.id] = content_of(snapshot.content)

    def on_run_step_delta(self, delta, snapshot):
        self.steps[snapshot.id] = without_index(json.loads(snapshot.step_details.json()))


def content_of(content):
    return without_index([json.loads(part.json()) for part in content])


def without_index(value):
    if isinstance(value, dict):
        return {key: without_index(one) for key, one in value.items() if key != "index"}
    return [without_index(one) for one in value] if isinstance(value, list) else value


def walk_streams():
    assistant = beta.assistants.create(model="gpt-4", tools=[CODE])
    thread = beta.threads.create(messages=[{"role": "user", "content": "Solve the equation"}])
    handler = Handler()
    with beta.threads.runs.create_and_stream(
        thread_id=thread.id, assistant_id=assistant.id, event_handler=handler
    ) as stream:
        stream.until_done()
        run = stream.get_final_run()
    assert run.status == "completed", run.last_error
    messages = beta.threads.messages.list(thread.id).data
    stored = {m.id: content_of(m.content) for m in messages if m.run_id == run.id}
    assert handler.messages == stored
    steps = beta.threads.runs.steps.list(run.id, thread_id=thread.id).data
    details = {s.id: json.loads(s.step_details.json()) for s in steps if s.type == "tool_calls"}
    assert handler.steps == details


async def walk_async():
    async with AsyncOpenAI(max_retries=0, _strict_response_validation=True) as client:
        assistant = await client.beta.assistants.create(model="gpt-4", tools=[CODE])
        thread = await client.beta.threads.create(messages=[{"role": "user", "content": "Hello"}])
        run = await client.beta.threads.runs.create_and_poll(
            thread_id=thread.id, assistant_id=assistant.id, poll_interval_ms=50
        )
        assert run.status == "completed", run.last_error
        async with client.beta.threads.runs.create_and_stream(
            thread_id=thread.id, assistant_id=assistant.id
        ) as stream:
            names = [event.event async for event in stream]
        assert names[-1] == "thread.run.completed"
        messages = await client.beta.threads.messages.list(thread.id)
        assert len(messages.data) == 3


walk_assistants()
walk_threads()
walk_runs()
walk_streams()
asyncio.run(walk_async())
print("all is well")
