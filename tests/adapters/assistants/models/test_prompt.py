"""Prompts from messages and steps: their order, what is left out, and where images go."""

from collections.abc import Sequence
from typing import Any

import pytest
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from ci_tools_assistants.models import Conversation, Prompt, ToolResult, build_prompt
from ci_tools_assistants.models.capabilities import Capabilities, Family
from ci_tools_assistants.models.tokens import count_messages
from ci_tools_assistants.objects import Object
from tests.adapters.assistants.models.rig import TOOLS, entry_for, finish, open_model, request
from tests.adapters.assistants.scripted.script import turn
from tests.adapters.assistants.scripted.server import ScriptedServer

CAN = Capabilities(family=Family.OPENAI)
PIXEL = "aVZCT1I="


def user(
    id: str, text: str = "", *, at: int = 0, parts: Sequence[Object] = (), **more: Any
) -> Object:
    content = [*parts, *([text_part(text)] if text else [])]
    return {
        "id": id,
        "role": "user",
        "created_at": at,
        "content": content,
        "attachments": [],
        **more,
    }


def assistant(id: str, text: str, *, run: str | None = None, at: int = 0) -> Object:
    message = user(id, text, at=at)
    return {**message, "role": "assistant", "run_id": run}


def text_part(text: str) -> Object:
    return {"type": "text", "text": {"value": text, "annotations": []}}


def image_part(file_id: str, detail: str = "auto") -> Object:
    return {"type": "image_file", "image_file": {"file_id": file_id, "detail": detail}}


def wrote(message_id: str, *, at: int = 0) -> Object:
    details = {"type": "message_creation", "message_creation": {"message_id": message_id}}
    return {
        "type": "message_creation",
        "created_at": at,
        "status": "completed",
        "step_details": details,
    }


def called(*calls: Object, at: int = 0, status: str = "completed") -> Object:
    details = {"type": "tool_calls", "tool_calls": list(calls)}
    return {"type": "tool_calls", "created_at": at, "status": status, "step_details": details}


def code(id: str, input: str, *logs: str, image: str | None = None) -> Object:
    outputs: list[Object] = [{"type": "logs", "logs": text} for text in logs]
    if image:
        outputs.append({"type": "image", "image": {"file_id": image}})
    return {
        "id": id,
        "type": "code_interpreter",
        "code_interpreter": {"input": input, "outputs": outputs},
    }


def function(id: str, name: str, arguments: str, output: str | None) -> Object:
    details = {"name": name, "arguments": arguments, "output": output}
    return {"id": id, "type": "function", "function": details}


async def build(
    *messages: Object,
    steps: dict[str, Sequence[Object]] | None = None,
    can: Capabilities = CAN,
    **more: Any,
) -> Prompt:
    fields = {"system": "", "tools": TOOLS, "run_id": "run_2", **more}
    return await build_prompt(Conversation(messages=messages, steps=steps or {}, **fields), can)


def outline(messages: Sequence[BaseMessage]) -> list[str]:
    """Return each message as one line."""
    return [_line(message) for message in messages]


def _line(message: BaseMessage) -> str:
    match message:
        case SystemMessage():
            return f"system: {message.text}"
        case ToolMessage():
            return f"tool {message.tool_call_id}: {message.text}"
        case AIMessage(tool_calls=[_, *_]):
            calls = ", ".join(f"{call['name']}{call['args']}" for call in message.tool_calls)
            return f"calls: {message.text}|{calls}"
        case AIMessage():
            return f"assistant: {message.text}"
        case _:
            return f"user: {message.text}"


async def test_instructions_and_messages_are_in_order() -> None:
    prompt = await build(
        user("m1", "Hi"), assistant("m2", "Hello"), user("m3", "Bye"), system="Be brief."
    )

    assert outline(prompt.messages) == [
        "system: Be brief.",
        "user: Hi",
        "assistant: Hello",
        "user: Bye",
    ]
    assert prompt.dropped == 0


async def test_calls_of_an_earlier_run_come_before_the_message_they_led_to() -> None:
    prompt = await build(
        user("m1", "What is x?", at=1),
        assistant("m2", "It is 5.", run="run_1", at=3),
        user("m3", "And y?", at=9),
        steps={"run_1": [called(code("call_1", "x = 5\nx", "5"), at=2), wrote("m2", at=3)]},
    )

    assert outline(prompt.messages) == [
        "user: What is x?",
        "calls: |code_interpreter{'code': 'x = 5\\nx'}",
        "tool call_1: 5",
        "assistant: It is 5.",
        "user: And y?",
    ]


async def test_calls_of_a_run_that_came_to_nothing_are_where_they_were_made() -> None:
    prompt = await build(
        user("m1", "First?", at=1),
        user("m2", "Second?", at=5),
        user("m3", "Third?", at=9),
        steps={
            "run_0": [called(code("c1", "x = 1", "1"), at=2, status="failed")],
            "run_1": [called(code("c2", "x = 2", "2"), at=9, status="cancelled")],
        },
    )

    assert outline(prompt.messages) == [
        "user: First?",
        "calls: |code_interpreter{'code': 'x = 1'}",
        "tool c1: 1",
        "user: Second?",
        "calls: |code_interpreter{'code': 'x = 2'}",
        "tool c2: 2",
        "user: Third?",
    ]


async def test_text_before_a_call_is_one_message_with_it() -> None:
    prompt = await build(
        user("m1", "What is x?"),
        assistant("m2", "Let me see.", run="run_1"),
        assistant("m3", "It is 5.", run="run_1"),
        user("m4", "And y?"),
        steps={"run_1": [wrote("m2"), called(code("call_1", "x", "5")), wrote("m3")]},
    )

    assert outline(prompt.messages) == [
        "user: What is x?",
        "calls: Let me see.|code_interpreter{'code': 'x'}",
        "tool call_1: 5",
        "assistant: It is 5.",
        "user: And y?",
    ]


async def test_calls_of_this_run_come_last_with_the_results_that_were_given() -> None:
    calls = (
        code("call_1", "plot()", "…", image="file-1"),
        function("call_2", "get_weather", '{"city": "Bern"}', "sunny"),
    )

    prompt = await build(
        user("m1", "Plot it."),
        steps={"run_2": [called(*calls)]},
        results={"call_1": ToolResult(text="plotted")},
    )

    assert outline(prompt.messages) == [
        "user: Plot it.",
        "calls: |code_interpreter{'code': 'plot()'}, get_weather{'city': 'Bern'}",
        "tool call_1: plotted",
        "tool call_2: sunny",
    ]


async def test_results_are_taken_from_the_steps_after_a_restart() -> None:
    step = called(code("call_1", "plot()", "done", image="file-1"), code("call_2", "pass"))

    prompt = await build(user("m1", "Plot it."), steps={"run_2": [step]})

    assert outline(prompt.messages)[2:] == [
        "tool call_1: done\n[image file-1]",
        "tool call_2: (no output)",
    ]


@pytest.mark.parametrize(
    ("status", "text"),
    [("cancelled", "(The call was cancelled.)"), ("expired", "(There was no output in time.)")],
)
async def test_call_that_was_never_answered_has_a_result(status: str, text: str) -> None:
    step = called(function("call_1", "f", "{}", None), at=2, status=status)

    prompt = await build(
        user("m1", "Go.", at=1), user("m2", "Well?", at=9), steps={"run_1": [step]}
    )

    assert outline(prompt.messages) == [
        "user: Go.",
        "calls: |f{}",
        f"tool call_1: {text}",
        "user: Well?",
    ]


async def test_own_message_of_the_model_is_sent_back_as_it_was() -> None:
    thinking = {"type": "thinking", "thinking": "Hm.", "signature": "s"}
    call = {"id": "call_1", "name": "code_interpreter", "args": {"code": "x"}, "type": "tool_call"}
    answer = AIMessage([thinking, {"type": "text", "text": "Let me see."}], tool_calls=[call])

    prompt = await build(
        user("m1", "What is x?"),
        assistant("m2", "Let me see.", run="run_2"),
        steps={"run_2": [wrote("m2"), called(code("call_1", "x", "5"))]},
        answers=[answer],
    )

    assert len(prompt.messages) == 3
    assert prompt.messages[1] is answer


async def test_calls_are_text_if_no_tools_are_offered() -> None:
    prompt = await build(
        user("m1", "What is x?"),
        assistant("m2", "5", run="run_1"),
        user("m3", "Sure?"),
        steps={"run_1": [called(code("call_1", "print(x)", "5")), wrote("m2")]},
        tools=(),
    )

    assert not any(isinstance(message, ToolMessage) for message in prompt.messages)
    assert "print(x)\n[result]\n5" in outline(prompt.messages)[1]


async def test_earlier_results_are_shortened_and_those_of_this_run_are_not() -> None:
    earlier, current = code("call_1", "a", "x" * 9_000), code("call_2", "b", "y" * 9_000)

    prompt = await build(
        user("m1", "Go.", at=1),
        user("m2", "On.", at=3),
        steps={"run_1": [called(earlier, at=2)], "run_2": [called(current, at=4)]},
    )

    first, second = (m for m in prompt.messages if isinstance(m, ToolMessage))
    assert len(first.text) < 4_100
    assert "5000 characters left out" in first.text
    assert len(second.text) == 9_000


async def test_attached_files_are_named() -> None:
    attached = [{"file_id": "file-1", "tools": []}, {"file_id": "file-2", "tools": []}]

    prompt = await build(
        user("m1", "Look.", attachments=attached), file_names={"file-1": "data.csv"}
    )

    assert outline(prompt.messages) == ["user: Look.\n[attached files: data.csv (file-1), file-2]"]


async def test_halves_of_characters_do_not_break_the_request(server: ScriptedServer) -> None:
    server.follow([turn("Hi")])
    calls = (
        function("call_1", "f", '{"a": "\\ud83d"}', "\ud83d"),
        code("call_2", "print('\ud83d')", "\ud83d\ude00"),
    )

    async with open_model(entry_for("chat", server)) as model:
        prompt = await build(
            user("m1", "x\ude00"), steps={"run_2": [called(*calls)]}, system="\ud83d"
        )
        await finish(model, request(messages=prompt.messages, tools=TOOLS))

    assert outline(prompt.messages) == [
        "system: \ufffd",
        "user: x\ufffd",
        "calls: |f{'a': '\ufffd'}, code_interpreter{'code': \"print('\ufffd')\"}",
        "tool call_1: \ufffd",
        "tool call_2: 😀",
    ]


async def test_empty_messages_are_left_out() -> None:
    prompt = await build(user("m1", "Hi"), assistant("m2", "", run="run_2"))

    assert outline(prompt.messages) == ["user: Hi"]


async def test_empty_thread_still_has_a_message() -> None:
    prompt = await build()

    assert outline(prompt.messages) == ["user: (The thread has no messages yet.)"]


async def test_answer_without_a_question_is_given_one() -> None:
    prompt = await build(assistant("m1", "Welcome!"), user("m2", "Hi"))

    assert isinstance(prompt.messages[0], HumanMessage)
    assert outline(prompt.messages)[1:] == ["assistant: Welcome!", "user: Hi"]


# Images


async def load(file_id: str) -> tuple[str, bytes] | None:
    if file_id == "file-gone":
        return None
    if file_id == "file-unknown":
        raise LookupError(file_id)
    return "image/png", b"iVBOR"


async def test_images_of_users_are_loaded() -> None:
    parts = [image_part("file-1", "high"), image_part("file-gone"), image_part("file-unknown")]

    prompt = await build(user("m1", "Look.", parts=parts), load_image=load)

    [message] = prompt.messages
    assert message.content == [
        {
            "type": "image_url",
            "image_url": {"url": f"data:image/png;base64,{PIXEL}", "detail": "high"},
        },
        {"type": "text", "text": "[image file-gone]"},
        {"type": "text", "text": "[image file-unknown]"},
        {"type": "text", "text": "Look."},
    ]


async def test_model_without_eyes_is_told_of_images() -> None:
    url = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    can = Capabilities(images=False, image_urls=False)

    prompt = await build(user("m1", "Look.", parts=[image_part("file-1"), url]), can=can)

    assert outline(prompt.messages) == [
        "user: [image file-1]\n[image at https://example.org/a.png]\nLook."
    ]


async def test_images_of_an_answer_are_named() -> None:
    answer = {**assistant("m2", "Here."), "content": [image_part("file-1"), text_part("Here.")]}

    prompt = await build(user("m1", "Plot."), answer, user("m3", "Thanks."))

    assert outline(prompt.messages)[1] == "assistant: [image file-1]\nHere."


@pytest.mark.parametrize("place", ["tool", "user", "none"])
async def test_images_of_code_go_where_the_model_looks(place: Any) -> None:
    result = ToolResult(text="plotted", images=[("image/png", PIXEL)])
    can = Capabilities(family=Family.ANTHROPIC, tool_images=place)
    block = {"type": "image", "base64": PIXEL, "mime_type": "image/png"}

    prompt = await build(
        user("m1", "Plot."),
        steps={"run_2": [called(code("call_1", "plot()"))]},
        results={"call_1": result},
        can=can,
    )

    tool, *after = prompt.messages[2:]
    if place == "tool":
        assert tool.content == [{"type": "text", "text": "plotted"}, block]
        assert after == []
    elif place == "user":
        assert tool.content == "plotted"
        assert [message.content[-1] for message in after] == [block]
    else:
        assert tool.content == "plotted\n[The user sees the images; you cannot.]"
        assert after == []


@pytest.mark.parametrize("shape", ["chat", "responses", "anthropic", "ollama"])
async def test_every_providers_client_takes_the_images(shape: str, server: ScriptedServer) -> None:
    server.follow([turn("I see.")])
    url = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    result = ToolResult(text="plotted", images=[("image/png", PIXEL)])
    looks = {} if shape != "ollama" else {"images": True}

    async with open_model(entry_for(shape, server, **looks)) as model:
        prompt = await build(
            user("m1", "Look.", parts=[image_part("file-1"), url]),
            steps={"run_2": [called(code("call_1", "plot()"))]},
            results={"call_1": result},
            load_image=load,
            can=model.capabilities,
        )
        await finish(model, request(messages=prompt.messages, tools=TOOLS))

    body = str(server.requests[0].body)
    assert body.count(PIXEL) == 2
    assert ("example.org" in body) is True
    if shape == "chat":
        tools = [m for m in server.requests[0].messages if m["role"] == "tool"]
        assert PIXEL not in str(tools)


# Truncation


def long_thread(turns: int) -> list[Object]:
    messages = []
    for n in range(turns):
        messages.append(user(f"u{n}", f"question {n} " + "x" * 400))
        messages.append(assistant(f"a{n}", f"answer {n} " + "y" * 400))
    return [*messages, user("last", "the last question")]


def heads(messages: Sequence[BaseMessage]) -> list[str]:
    return [" ".join(message.text.split(" ")[:2]) for message in messages]


async def test_middle_is_dropped_to_fit_the_budget() -> None:
    prompt = await build(*long_thread(20), max_prompt_tokens=1_000, tools=())

    assert heads(prompt.messages) == [
        "question 0",
        "question 16",
        "answer 16",
        "question 17",
        "answer 17",
        "question 18",
        "answer 18",
        "question 19",
        "answer 19",
        "the last",
    ]
    assert prompt.tokens <= 1_000
    assert prompt.dropped == 41 - 10


async def test_window_of_the_model_is_a_budget() -> None:
    prompt = await build(*long_thread(50), can=Capabilities(window=4_096))

    assert prompt.tokens < 4_096 * 0.75
    assert prompt.messages[-1].text == "the last question"


@pytest.mark.parametrize(("number", "kept"), [(1, 1), (2, 2), (3, 3)])
async def test_last_messages_are_counted_in_the_thread(number: int, kept: int) -> None:
    strategy = {"type": "last_messages", "last_messages": number}

    prompt = await build(*long_thread(3), truncation=strategy)

    texts = [message for message in prompt.messages if "begins" not in message.text]
    assert len(texts) == kept


async def test_calls_of_this_run_do_not_count_as_messages() -> None:
    strategy = {"type": "last_messages", "last_messages": 1}

    prompt = await build(
        *long_thread(1), steps={"run_2": [called(code("call_1", "x", "5"))]}, truncation=strategy
    )

    assert outline(prompt.messages) == [
        "user: the last question",
        "calls: |code_interpreter{'code': 'x'}",
        "tool call_1: 5",
    ]


async def test_last_question_stays_however_long_it_is() -> None:
    prompt = await build(*long_thread(3), user("m", "z" * 9_000), max_prompt_tokens=256)

    assert [message.text for message in prompt.messages] == ["z" * 9_000]


async def test_results_of_this_run_are_shortened_before_anything_fails() -> None:
    steps = [called(code(f"call_{n}", "x", "y" * 20_000)) for n in range(5)]

    prompt = await build(
        user("m1", "Go."), steps={"run_2": steps}, max_prompt_tokens=4_000, tools=TOOLS
    )

    assert prompt.tokens <= 4_000
    assert len([m for m in prompt.messages if isinstance(m, ToolMessage)]) == 5


async def test_no_result_ever_loses_its_call() -> None:
    messages: list[Object] = []
    steps: dict[str, Sequence[Object]] = {}
    for n in range(12):
        messages += [user(f"u{n}", f"question {n}"), assistant(f"a{n}", f"answer {n}", run=f"r{n}")]
        steps[f"r{n}"] = [called(code(f"call_{n}", "x" * 200, "y" * 300)), wrote(f"a{n}")]
    messages.append(user("last", "the last question"))

    for budget in range(300, 3_000, 50):
        prompt = await build(*messages, steps=steps, max_prompt_tokens=budget)
        known: set[str] = set()
        for message in prompt.messages:
            if isinstance(message, AIMessage):
                known |= {str(call["id"]) for call in message.tool_calls}
            if isinstance(message, ToolMessage):
                assert message.tool_call_id in known
        assert isinstance(prompt.messages[0], HumanMessage)
        assert prompt.messages[-1].text == "the last question"


async def test_second_prompt_is_shorter_and_keeps_the_question() -> None:
    prompt = await build(*long_thread(30), system="Be brief.")

    shorter = prompt.shorten(2_000)

    assert count_messages(shorter) < min(count_messages(prompt.messages) / 1.9, 1_500)
    assert outline(shorter)[0] == "system: Be brief."
    assert shorter[-1].text == "the last question"
