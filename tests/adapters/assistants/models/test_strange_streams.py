"""Answers that no provider should send, and that must not hold up everybody else."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    ToolMessage,
)
from langchain_core.messages import ai as langchain_messages
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk

from ci_tools.settings import ModelEntry
from ci_tools_assistants.models import ChatModel, ModelError, answer
from ci_tools_assistants.models.capabilities import Capabilities
from ci_tools_assistants.models.chunks import AT_ONCE, Chunks
from ci_tools_assistants.models.code_argument import CodeArgumentDecoder
from ci_tools_assistants.models.conversation import Group
from ci_tools_assistants.models.truncation import choose_groups
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
from tests.adapters.assistants.scripted.script import CallTool, turn
from tests.adapters.assistants.scripted.server import ScriptedServer

STREAMING = [shape for shape in SHAPES if shape != "ollama"]
"""Shapes whose arguments come as text; Ollama's are objects."""


class Streaming(GenericFakeChatModel):
    """A model of any provider that says what a test wrote."""

    _said: list[AIMessageChunk] = []  # private, so that traces do not write it out

    def _stream(self, messages: list[BaseMessage], *_: Any, **__: Any) -> Iterator[Any]:
        raise NotImplementedError

    async def _astream(
        self, messages: list[BaseMessage], *_: Any, **__: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in self._said:
            yield ChatGenerationChunk(message=chunk)


def model_that_says(*said: AIMessageChunk) -> ChatModel:
    made = Streaming(messages=iter([AIMessage("")]))
    made._said = list(said)
    return ChatModel("m", made, ModelEntry(use="x:y", max_retries=0), Capabilities(tools=False))


def fragment(text: str, *, name: str | None = None, index: int = 0) -> AIMessageChunk:
    with Chunks().reading():  # so that the test itself does not parse it
        call = tool_call_chunk(name=name, args=text, id=name and f"call_{index}", index=index)
        return AIMessageChunk(content="", tool_call_chunks=[call])


@asynccontextmanager
async def turns_of_others() -> AsyncIterator[list[int]]:
    """Count how often something else had its turn meanwhile."""
    counted = [0]

    async def take_turns() -> None:
        while True:
            await anyio.lowlevel.checkpoint()
            counted[0] += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take_turns)
        await anyio.lowlevel.checkpoint()
        counted[0] = 0
        with anyio.fail_after(60):  # in time that grows with the square of a size it takes longer
            yield counted
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("shape", STREAMING)
async def test_large_fragments_are_not_parsed(shape: str, server: ScriptedServer) -> None:
    code = {"code": "y" * 300_000}
    server.follow([turn(CallTool("code_interpreter", code, piece=100_000))])

    async with open_model(entry_for(shape, server)) as model:
        with anyio.fail_after(20):  # to parse one of them as JSON takes minutes
            done = await finish(model, request(tools=TOOLS))

    assert [json.loads(call.arguments) for call in done.calls] == [code]


@pytest.mark.parametrize("shape", STREAMING)
async def test_large_arguments_that_are_no_json_are_broken(
    shape: str, server: ScriptedServer
) -> None:
    server.follow([turn(CallTool("code_interpreter", "y" * 100_000, piece=100_000))])

    async with open_model(entry_for(shape, server)) as model:
        with anyio.fail_after(20):
            done = await finish(model, request(tools=TOOLS))

    assert not done.calls
    assert [len(call.arguments) for call in done.broken] == [100_000]


async def test_broken_arguments_of_a_whole_answer_are_not_parsed_either(
    server: ScriptedServer,
) -> None:
    server.follow([turn(CallTool("code_interpreter", "y" * 100_000))])

    async with open_model(entry_for("chat", server, stream=False)) as model:
        with anyio.fail_after(20):
            done = await finish(model, request(tools=TOOLS))

    assert [len(call.arguments) for call in done.broken] == [100_000]


@pytest.mark.parametrize(
    "said",
    [
        [fragment('{"code": "', name="f"), *(fragment("x" * 5) for _ in range(10_000))],
        [fragment('{"code": "' + "x" * 500_000, name="f"), fragment('"}')],
        [fragment('{"a": [' + "[]," * 300_000 + "1]}", name="f")],
        [
            AIMessageChunk(content=[{"type": "text", "text": "word " * 20, "index": 0}])
            for _ in range(10_000)
        ],
    ],
    ids=["many fragments", "a large one", "many lists", "many blocks"],
)
async def test_a_strange_answer_does_not_hold_up_others(said: list[AIMessageChunk]) -> None:
    async with turns_of_others() as turns:
        await ask(model_that_says(*said))

    assert turns[0] >= 2


async def test_chunks_that_are_there_at_once_leave_turns_to_others() -> None:
    model = model_that_says(*(AIMessageChunk(content="word ") for _ in range(20_000)))

    async with turns_of_others() as turns:
        await ask(model)

    assert turns[0] >= 10


def test_chunks_add_up_to_what_langchain_makes_of_them() -> None:
    said = [
        AIMessageChunk(content=[{"type": "text", "text": f"{number} ", "index": 0}], id="1")
        for number in range(AT_ONCE**2 + AT_ONCE + 1)
    ]
    said.append(fragment('{"a": ', name="f"))
    said.append(fragment("1}"))
    gathered = Chunks()
    for chunk in said:
        gathered.add(chunk)

    whole = gathered.whole()

    first, *rest = said
    assert whole == langchain_messages.add_ai_message_chunks(first, *rest)
    assert whole.tool_calls == [
        {"name": "f", "args": {"a": 1}, "id": "call_0", "type": "tool_call"}
    ]


def test_others_in_the_process_still_have_their_fragments_parsed() -> None:
    def fragment_of(text: str) -> AIMessageChunk:
        call = tool_call_chunk(name="f", args=text, id="1", index=0)
        return AIMessageChunk(content="", tool_call_chunks=[call])

    assert [call["args"] for call in fragment_of('{"a": [1').tool_calls] == [{"a": [1]}]

    with Chunks().reading():
        assert not fragment_of('{"a": [1').tool_calls
        assert [call["args"] for call in fragment_of('{"a": [1]}').tool_calls] == [{"a": [1]}]


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ([fragment("x", name="f"), *[fragment("x" * 1000)] * 1000], "arguments"),
        ([AIMessageChunk(content="x" * 100_000)] * 41, "longer than"),
        ([AIMessageChunk(content=[{"reasoning": "x" * 100_000}])] * 41, "longer than"),
        (
            [fragment("{}", name="f", index=number) for number in range(answer.CALLS_LIMIT + 1)],
            "128 tools",
        ),
    ],
)
async def test_an_answer_is_bounded(said: list[AIMessageChunk], text: str) -> None:
    with pytest.raises(ModelError, match=text) as raised:
        await ask(model_that_says(*said))

    assert raised.value.code == "server_error"


async def test_large_answers_below_the_bounds_are_whole() -> None:
    arguments = json.dumps({"code": "x" * (answer.ARGUMENTS_LIMIT - 100)})

    done = end_of(await ask(model_that_says(fragment(arguments, name="f"))))

    assert [call.arguments for call in done.calls] == [arguments]


def test_code_full_of_escapes_is_decoded() -> None:
    decoder = CodeArgumentDecoder()

    code = decoder.add('{"code": "' + "a\\n" * 400_000)

    assert code == "a\n" * 400_000


def test_a_turn_that_does_not_fit_is_shortened() -> None:
    results = [ToolMessage("x" * 20_000, tool_call_id=str(number)) for number in range(400)]

    question = Group([HumanMessage("Go on.")], is_user=True)
    kept = choose_groups([question, *(Group([result]) for result in results)], budget=1_000)

    assert len(kept) == 1 + len(results)
