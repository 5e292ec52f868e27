"""The scripted servers speak as the official clients expect."""

import json
from collections.abc import Iterator

import openai
import pytest

from tests.adapters.assistants.scripted.script import (
    NO_QUOTA,
    RATE_LIMIT,
    CallTool,
    Cut,
    Fail,
    Gate,
    Request,
    Turn,
    Wait,
    turn,
    words,
)
from tests.adapters.assistants.scripted.server import ScriptedServer, scripted_server


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        yield server


@pytest.fixture
def client(server: ScriptedServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url, api_key="x", max_retries=0) as client:
        yield client


def test_chat_is_streamed_with_text_calls_and_usage(
    server: ScriptedServer, client: openai.OpenAI
) -> None:
    server.follow([turn(*words("Let me see."), CallTool("f", {"a": "ä" * 20}))])

    with client.chat.completions.stream(
        model="m",
        messages=[{"role": "user", "content": "Hi"}],
        stream_options={"include_usage": True},
    ) as stream:
        final = stream.get_final_completion()

    [choice] = final.choices
    assert choice.message.content == "Let me see."
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls is not None
    [call] = choice.message.tool_calls
    assert json.loads(call.function.arguments) == {"a": "ä" * 20}
    assert final.usage is not None and final.usage.total_tokens == 15


def test_plain_chat_has_the_same_answer(server: ScriptedServer, client: openai.OpenAI) -> None:
    server.follow([turn("Hello")])

    answer = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}])

    assert answer.choices[0].message.content == "Hello"


def test_responses_are_streamed_with_text_and_calls(
    server: ScriptedServer, client: openai.OpenAI
) -> None:
    server.follow([turn("Let me ", "see.", CallTool("f", {"a": 1}), CallTool("f", {"a": 1}))])

    with client.responses.stream(model="m", input="Hi") as stream:
        final = stream.get_final_response()

    message, first, second = final.output
    assert final.output_text == "Let me see."
    assert message.type == "message"
    assert first.type == second.type == "function_call"
    assert first.arguments == '{"a": 1}'


def test_errors_carry_status_and_code(server: ScriptedServer, client: openai.OpenAI) -> None:
    server.follow([RATE_LIMIT, NO_QUOTA])

    codes = []
    for _ in range(2):
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}])
        codes.append(caught.value.code)

    assert codes == ["rate_limit_exceeded", "insufficient_quota"]


def test_connection_is_cut_in_the_middle(server: ScriptedServer, client: openai.OpenAI) -> None:
    server.follow([turn("Hel", Cut())])

    stream = client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "Hi"}], stream=True
    )

    with pytest.raises(openai.APIConnectionError):
        list(stream)


def test_gate_holds_the_answer_until_it_is_opened(
    server: ScriptedServer, client: openai.OpenAI
) -> None:
    gate = Gate()
    server.follow([turn("a", Wait(gate), "b")])

    stream = client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "Hi"}], stream=True
    )
    texts = []
    for chunk in stream:
        text = chunk.choices[0].delta.content
        texts.append(text)
        if text == "a":
            gate.open()

    assert "".join(text or "" for text in texts) == "ab"


def test_client_that_hangs_up_is_noticed_in_a_stall(
    server: ScriptedServer, client: openai.OpenAI
) -> None:
    server.follow([turn("a", Wait())])

    stream = client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "Hi"}], stream=True
    )
    next(iter(stream))
    stream.close()

    assert server.requests[0].hung_up.wait(5)


def test_script_can_be_a_function_of_the_request(
    server: ScriptedServer, client: openai.OpenAI
) -> None:
    def script(request: Request) -> Turn | Fail:
        if request.tool_results:
            return turn(f"It is {request.tool_results[0]}.")
        return turn(CallTool("f", {"q": request.last_text}, id="call_1"))

    server.follow(script)
    first = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}])
    second = client.chat.completions.create(
        model="m",
        messages=[
            {"role": "user", "content": "Hi"},
            first.choices[0].message.to_dict(),  # type: ignore[list-item] # what came goes back
            {"role": "tool", "tool_call_id": "call_1", "content": "7"},
        ],
    )

    assert second.choices[0].message.content == "It is 7."


def test_request_beyond_the_script_is_told_so(
    server: ScriptedServer, client: openai.OpenAI
) -> None:
    with pytest.raises(openai.BadRequestError, match="no further turn"):
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}])
