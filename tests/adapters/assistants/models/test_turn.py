"""The same turn is the same events, whichever provider's client fetches it."""

import json

import anyio
import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from ci_tools.settings import ModelEntry
from ci_tools_assistants.models import (
    ArgumentsDelta,
    Call,
    CallStarted,
    RefusalDelta,
    TextDelta,
    TurnDone,
    Usage,
)
from tests.adapters.assistants.models.rig import (
    SHAPES,
    TOOLS,
    ask,
    end_of,
    entry_for,
    finish,
    open_model,
    request,
)
from tests.adapters.assistants.scripted.script import (
    CallTool,
    Gate,
    Refuse,
    Think,
    Wait,
    turn,
    words,
)
from tests.adapters.assistants.scripted.script import Usage as Used
from tests.adapters.assistants.scripted.server import ScriptedServer


@pytest.mark.parametrize("shape", SHAPES)
async def test_text_comes_in_the_pieces_of_the_model(shape: str, server: ScriptedServer) -> None:
    server.follow([turn(*words("Hello dear Wörld"), usage=Used(prompt=12, completion=4))])

    async with open_model(entry_for(shape, server)) as model:
        *deltas, done = await ask(model)

    assert deltas == [TextDelta("Hello"), TextDelta(" dear"), TextDelta(" Wörld")]
    assert done == TurnDone(
        text="Hello dear Wörld",
        calls=[],
        broken=[],
        finish="stop",
        usage=Usage(prompt_tokens=12, completion_tokens=4),
    )


@pytest.mark.parametrize("shape", SHAPES)
async def test_calls_start_and_their_arguments_follow(shape: str, server: ScriptedServer) -> None:
    city, code = {"city": "Zürich"}, {"code": "print('😀')\n"}
    calls = CallTool("get_weather", city), CallTool("code_interpreter", code)
    server.follow([turn("Let me see.", *calls)])

    async with open_model(entry_for(shape, server)) as model:
        events = await ask(model, request(tools=TOOLS))
        done = end_of(events)

    starts = [event for event in events if isinstance(event, CallStarted)]
    assert [(start.index, start.name) for start in starts] == [
        (0, "get_weather"),
        (1, "code_interpreter"),
    ]
    for start, call in zip(starts, done.calls, strict=True):
        fragments = [
            event.fragment
            for event in events
            if isinstance(event, ArgumentsDelta) and event.index == start.index
        ]
        assert call == Call(id=start.id, name=start.name, arguments="".join(fragments))
    assert [json.loads(call.arguments) for call in done.calls] == [city, code]
    assert done.finish == "tool_calls"
    assert done.broken == []


async def test_halves_of_a_character_in_two_pieces_are_put_together(
    server: ScriptedServer,
) -> None:
    server.follow([turn("a\ud83d", "\ude00b", "\udc00", "c")])

    async with open_model(entry_for("chat", server)) as model:
        *deltas, done = await ask(model)

    assert deltas == [TextDelta("a"), TextDelta("😀b"), TextDelta("\ufffd"), TextDelta("c")]
    assert isinstance(done, TurnDone)
    assert done.text == "a😀b\ufffdc"


@pytest.mark.parametrize("shape", SHAPES)
async def test_thinking_is_no_text(shape: str, server: ScriptedServer) -> None:
    server.follow([turn(Think("Hm, hm."), "Yes.")])

    async with open_model(entry_for(shape, server)) as model:
        *deltas, _ = await ask(model)

    assert deltas == [TextDelta("Yes.")]


@pytest.mark.parametrize(
    ("shape", "pieces"), [("chat", ["I ", "won't."]), ("responses", ["I won't."])]
)
async def test_refusal_is_streamed(shape: str, pieces: list[str], server: ScriptedServer) -> None:
    server.follow([turn(Refuse("I "), Refuse("won't."))])

    async with open_model(entry_for(shape, server)) as model:
        *deltas, done = await ask(model)

    assert deltas == [RefusalDelta(piece) for piece in pieces]
    assert isinstance(done, TurnDone)
    assert (done.finish, done.refusal, done.text) == ("refusal", "I won't.", "")


@pytest.mark.parametrize("shape", SHAPES)
async def test_answer_that_was_cut_says_so(shape: str, server: ScriptedServer) -> None:
    server.follow([turn("Once upon", finish="length")])

    async with open_model(entry_for(shape, server)) as model:
        done = await finish(model)

    assert (done.finish, done.text) == ("length", "Once upon")


async def test_filtered_answer_says_so(server: ScriptedServer) -> None:
    server.follow([turn("Once", finish="content_filter")])

    async with open_model(entry_for("chat", server)) as model:
        done = await finish(model)

    assert done.finish == "content_filter"


@pytest.mark.parametrize("shape", ["chat", "responses", "anthropic"])
@pytest.mark.parametrize("finish_reason", ["length", "tool_calls"])
async def test_cut_arguments_are_never_executable(
    shape: str, finish_reason: str, server: ScriptedServer
) -> None:
    cut = CallTool("code_interpreter", '{"code": "import os\\nos.remove(')
    server.follow([turn(cut, finish=finish_reason)])  # type: ignore[arg-type]

    async with open_model(entry_for(shape, server)) as model:
        done = await finish(model, request(tools=TOOLS))

    assert done.calls == []
    [broken] = done.broken
    assert broken.arguments == '{"code": "import os\\nos.remove('
    if finish_reason == "length":
        assert done.finish == "length"


async def test_complete_calls_of_a_cut_answer_are_not_executable(server: ScriptedServer) -> None:
    server.follow([turn(CallTool("get_weather", {"city": "Bern"}), finish="length")])

    async with open_model(entry_for("chat", server)) as model:
        done = await finish(model, request(tools=TOOLS))

    assert done.calls == []
    assert len(done.broken) == 1


async def test_arguments_that_are_no_object_are_broken(server: ScriptedServer) -> None:
    server.follow([turn(CallTool("f", "[1]"), CallTool("g", "null"), CallTool("h", ""))])

    async with open_model(entry_for("chat", server)) as model:
        done = await finish(model, request(tools=TOOLS))

    assert [call.name for call in done.broken] == ["f", "g"]
    assert [(call.name, call.arguments) for call in done.calls] == [("h", "{}")]


async def test_only_the_first_call_counts_if_parallel_ones_are_forbidden(
    server: ScriptedServer,
) -> None:
    calls = [CallTool("get_weather", {"city": city}) for city in ("Bern", "Basel")]
    server.follow([turn(*calls)])

    async with open_model(entry_for("ollama", server)) as model:
        events = await ask(model, request(tools=TOOLS, parallel=False))
        done = end_of(events)

    assert len([event for event in events if isinstance(event, CallStarted)]) == 1
    assert [call.arguments for call in done.calls] == ['{"city": "Bern"}']


async def test_ids_that_were_used_before_are_replaced(server: ScriptedServer) -> None:
    before = {"id": "call_0", "name": "get_weather", "args": {}, "type": "tool_call"}
    messages = (
        HumanMessage("Hi"),
        AIMessage("", tool_calls=[before]),
        ToolMessage("sunny", tool_call_id="call_0"),
    )
    server.follow([turn(CallTool("f", id="call_0"), CallTool("f", id="call_0"))])

    async with open_model(entry_for("chat", server)) as model:
        done = await finish(model, request(messages=messages, tools=TOOLS))

    ids = {call.id for call in done.calls}
    assert len(ids) == 2
    assert "call_0" not in ids
    assert done.message is None


async def test_usage_has_its_details(server: ScriptedServer) -> None:
    used = Used(prompt=100, completion=20, cached=60, reasoning=7)
    server.follow([turn("Hi", usage=used)])

    async with open_model(entry_for("chat", server)) as model:
        done = await finish(model)

    assert done.usage == Usage(
        prompt_tokens=100, completion_tokens=20, cached_tokens=60, reasoning_tokens=7
    )
    assert done.usage.to_object() == {
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "total_tokens": 120,
    }


async def test_missing_usage_is_estimated_and_marked(server: ScriptedServer) -> None:
    server.follow([turn("Hello there", usage=None)])

    async with open_model(entry_for("chat", server, stream_usage=False)) as model:
        done = await finish(model)

    assert "stream_options" not in server.requests[0].body
    assert done.usage.is_estimated
    assert 1 <= done.usage.completion_tokens <= 5
    assert done.usage.prompt_tokens >= 5


@pytest.mark.parametrize("shape", SHAPES)
async def test_answer_can_be_fetched_whole(shape: str, server: ScriptedServer) -> None:
    server.follow([turn("Hello", CallTool("get_weather", {"city": "Bern"}))])

    async with open_model(entry_for(shape, server, stream=False)) as model:
        events = await ask(model, request(tools=TOOLS))
        done = end_of(events)

    # Ollama's package fetches whole answers in pieces, too.
    assert shape == "ollama" or not server.requests[0].body.get("stream")
    assert events[0] == TextDelta("Hello")
    assert [call.arguments for call in done.calls] == ['{"city": "Bern"}']
    assert done.usage.total_tokens == 15


async def test_model_that_cannot_stream_is_asked_all_the_same() -> None:
    entry = ModelEntry(use="tests.adapters.assistants.models.factories:create_whole")

    async with open_model(entry) as model:
        done = await finish(model, request(tools=TOOLS))

    assert done.finish == "tool_calls"
    assert [call.arguments for call in done.calls] == ['{"city": "Bern"}']


@pytest.mark.parametrize("shape", SHAPES)
async def test_leaving_the_block_ends_the_request(shape: str, server: ScriptedServer) -> None:
    server.follow([turn("a", Wait())])

    with anyio.fail_after(10):
        async with open_model(entry_for(shape, server)) as model, model.turn(request()) as events:
            await anext(events)

    assert await anyio.to_thread.run_sync(server.requests[0].hung_up.wait, 10)


async def test_cancelling_ends_the_request(server: ScriptedServer) -> None:
    gate = Gate()
    server.follow([turn("a", Wait(gate))])

    with anyio.fail_after(10):
        async with open_model(entry_for("chat", server)) as model:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask, model)
                await gate.reached()
                tasks.cancel_scope.cancel()

    assert await anyio.to_thread.run_sync(server.requests[0].hung_up.wait, 10)


async def test_turns_of_one_model_run_side_by_side(server: ScriptedServer) -> None:
    gate = Gate()
    server.follow(lambda asked: turn("a", Wait(gate)))

    with anyio.fail_after(20):
        async with open_model(entry_for("chat", server)) as model:
            async with anyio.create_task_group() as tasks:
                for _ in range(20):
                    tasks.start_soon(ask, model)
                while len(server.requests) < 20:
                    await anyio.sleep(0.002)
                gate.open()

    assert len(server.requests) == 20
