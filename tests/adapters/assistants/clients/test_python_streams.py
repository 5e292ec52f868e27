"""The stream helpers of the newest Python client: what they add up to is what is stored."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from openai import APIError, AsyncOpenAI, OpenAI

from tests.adapters.assistants.clients.serving import KEY, Served
from tests.adapters.assistants.clients.sums import (
    AsyncHandler,
    Handler,
    assert_equal_to_stored,
    without_index,
)
from tests.adapters.assistants.contract.operations import FUNCTIONS
from tests.adapters.assistants.scripted.script import SERVER_ERROR

pytestmark = pytest.mark.filterwarnings(
    "ignore:deprecated:DeprecationWarning",
    "ignore:The Assistants API is deprecated:DeprecationWarning",
)

CODE: Any = {"type": "code_interpreter"}


@pytest.fixture
def client(served: Served) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=served.url, api_key=KEY, max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


@pytest.fixture
async def async_client(served: Served) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(
        base_url=served.url, api_key=KEY, max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


def prepare(client: OpenAI, text: str, **more: Any) -> tuple[str, str]:
    """Return the ids of a new assistant and of a thread with one message."""
    assistant = client.beta.assistants.create(model="gpt-4o", tools=[CODE], **more)
    thread = client.beta.threads.create(messages=[{"role": "user", "content": text}])
    return assistant.id, thread.id


@pytest.mark.parametrize("text", ["Solve the equation", "Shuffle the rows", "Hello"])
def test_deltas_add_up_to_what_is_stored(checked: Served, client: OpenAI, text: str) -> None:
    file = client.files.create(file=("mydata.csv", b"a,b\n1,2\n3,4\n"), purpose="assistants")
    resources: Any = {"code_interpreter": {"file_ids": [file.id]}}
    assistant_id, thread_id = prepare(client, text, tool_resources=resources)
    handler = Handler()

    with client.beta.threads.runs.stream(
        thread_id=thread_id, assistant_id=assistant_id, event_handler=handler
    ) as stream:
        stream.until_done()
        run = stream.get_final_run()
        messages = stream.get_final_messages()
        steps = stream.get_final_run_steps()

    assert run.status == "completed", run.last_error
    assert_equal_to_stored(client, handler.sums, thread_id, run.id)
    stored = client.beta.threads.messages.list(thread_id, run_id=run.id, order="asc").data
    assert [message.to_dict() for message in messages] == [one.to_dict() for one in stored]
    kept = client.beta.threads.runs.steps.list(run.id, thread_id=thread_id, order="asc").data
    # The client keeps the steps as they were before they ended.
    assert [(step.id, without_index(step.step_details.to_dict())) for step in steps] == [
        (one.id, one.step_details.to_dict()) for one in kept
    ]
    assert run.to_dict() == client.beta.threads.runs.retrieve(run.id, thread_id=thread_id).to_dict()


def test_the_callbacks_of_an_event_handler_come_in_order(checked: Served, client: OpenAI) -> None:
    assistant_id, thread_id = prepare(client, "Solve the equation")
    handler = Handler()

    with client.beta.threads.runs.stream(
        thread_id=thread_id, assistant_id=assistant_id, event_handler=handler
    ) as stream:
        stream.until_done()

    # The client says again that the last call is done whenever a later step ends.
    assert list(dict.fromkeys(handler.calls)) == [
        "code_interpreter created",
        "code_interpreter done",
        "text created",
        "text done",
        "message done",
        "end",
    ]
    stored = client.beta.threads.messages.list(thread_id).data[0].content[0]
    assert stored.type == "text"
    assert handler.sums.text == stored.text.value


async def test_deltas_add_up_with_the_asynchronous_client(
    checked: Served, client: OpenAI, async_client: AsyncOpenAI
) -> None:
    assistant_id, thread_id = prepare(client, "Solve the equation")
    handler = AsyncHandler()

    async with async_client.beta.threads.runs.stream(
        thread_id=thread_id, assistant_id=assistant_id, event_handler=handler
    ) as stream:
        await stream.until_done()
        run = await stream.get_final_run()

    assert_equal_to_stored(client, handler.sums, thread_id, run.id)


def test_a_thread_and_its_run_are_streamed_together(checked: Served, client: OpenAI) -> None:
    assistant = client.beta.assistants.create(model="gpt-4o", tools=[CODE])

    with client.beta.threads.create_and_run_stream(
        assistant_id=assistant.id,
        thread={"messages": [{"role": "user", "content": "Hello"}]},
    ) as stream:
        names = [event.event for event in stream]

    assert names[0] == "thread.created"
    assert names[-1] == "thread.run.completed"


def test_functions_are_streamed_and_their_outputs_stream_on(
    checked: Served, client: OpenAI
) -> None:
    tools: Any = list(FUNCTIONS.values())
    assistant = client.beta.assistants.create(model="gpt-4o", tools=tools)
    thread = client.beta.threads.create(messages=[{"role": "user", "content": "The weather?"}])
    first, second = Handler(), Handler()

    with client.beta.threads.runs.stream(
        thread_id=thread.id, assistant_id=assistant.id, event_handler=first
    ) as stream:
        stream.until_done()
        run = stream.current_run
    assert run is not None
    assert run.required_action is not None
    calls = run.required_action.submit_tool_outputs.tool_calls
    with client.beta.threads.runs.submit_tool_outputs_stream(
        thread_id=thread.id,
        run_id=run.id,
        tool_outputs=[{"tool_call_id": call.id, "output": call.function.name} for call in calls],
        event_handler=second,
    ) as stream:
        stream.until_done()

    asked = {
        "type": "tool_calls",
        "tool_calls": [
            {
                "id": call.id,
                "type": "function",
                "function": call.function.to_dict() | {"output": None},
            }
            for call in calls
        ],
    }
    assert list(first.sums.steps.values()) == [asked]
    step = client.beta.threads.runs.steps.list(run.id, thread_id=thread.id, order="asc").data[0]
    details: Any = step.step_details
    assert [call.function.output for call in details.tool_calls] == list(FUNCTIONS)
    assert second.sums.text == (
        "It is getCurrentWeather in Los Angeles today, which people call getNickname."
    )


def test_a_plain_stream_without_the_helpers(checked: Served, client: OpenAI) -> None:
    assistant_id, thread_id = prepare(client, "Hello")

    stream = client.beta.threads.runs.create(
        thread_id=thread_id, assistant_id=assistant_id, stream=True
    )
    names = [event.event for event in stream]

    assert names[:3] == ["thread.run.created", "thread.run.queued", "thread.run.in_progress"]
    assert names[-1] == "thread.run.completed"


def test_a_failed_run_raises_in_the_stream_and_is_stored(checked: Served, client: OpenAI) -> None:
    assistant_id, thread_id = prepare(client, "Hello")
    names = []
    checked.model.follow([SERVER_ERROR] * 10)
    try:
        with (
            pytest.raises(APIError),
            client.beta.threads.runs.stream(
                thread_id=thread_id, assistant_id=assistant_id
            ) as stream,
        ):
            for event in stream:
                names.append(event.event)
    finally:
        checked.model.follow(checked.script)

    assert names[-1] == "thread.run.failed"
    [run] = client.beta.threads.runs.list(thread_id).data
    assert run.status == "failed"
    assert run.last_error is not None
    assert run.last_error.code == "server_error"
