"""The middleware in agents of `create_agent`, local and remote, with a scripted model."""

import base64
from collections.abc import Callable
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver

from ci_tools import ServerUnavailableError, StepStatus
from langchain_ci_tools import CodeInterpreterMiddleware, CodeInterpreterToolkit, to_step
from langchain_ci_tools.middleware import SYSTEM_PROMPT
from langchain_ci_tools.sessions import KEY, LOST
from tests.adapters.langchain.scripted import VISION, ScriptedModel, call
from tests.adapters.langchain.test_tools import PIXEL

CSV = {
    "type": "file",
    "base64": base64.b64encode(b"n\n1\n2\n").decode(),
    "mime_type": "text/csv",
    "extras": {"filename": "numbers.csv"},
}

SHOW = (
    "from IPython.display import Image, display\n"
    f"import base64; display(Image(base64.b64decode('{PIXEL}')))"
)


def to_agent(
    toolkit: CodeInterpreterToolkit, model: ScriptedModel, *, remembers: bool = True, **more: Any
) -> Any:
    return create_agent(
        model,
        middleware=[CodeInterpreterMiddleware(toolkit, **more)],
        checkpointer=InMemorySaver() if remembers else None,
    )


def ask(*content: Any) -> Any:
    return {"messages": [HumanMessage([*content])]}


def results(messages: list[BaseMessage]) -> list[ToolMessage]:
    return [message for message in messages if isinstance(message, ToolMessage)]


def test_agent_has_the_tools_and_is_told_of_them(
    toolkit: CodeInterpreterToolkit, model: ScriptedModel, config: RunnableConfig
) -> None:
    model.script = [call("run_code", code="x = 1"), call("run_code", code="x + 1"), "Two."]

    done = to_agent(toolkit, model).invoke(ask("1+1?"), config)

    assert [str(message.content) for message in results(done["messages"])] == ["(no output)", "2"]
    assert [tool["function"]["name"] for tool in model.offered] == [
        *("run_code", "run_command", "list_files", "read_file", "get_run_step")
    ]
    assert isinstance(model.sent[0][0], SystemMessage)
    assert SYSTEM_PROMPT in model.sent[0][0].text
    assert KEY not in done


def test_nothing_is_opened_for_an_agent_that_runs_no_code(
    local: CodeInterpreterToolkit, model: ScriptedModel, config: RunnableConfig
) -> None:
    to_agent(local, model).invoke(ask("Hello"), config)

    async def count(service: Any, put: Any) -> int:
        return len(await service.list_sessions())

    assert local.connection.call(count) == 0


def test_system_prompt_of_the_agent_stays_first(
    toolkit: CodeInterpreterToolkit, model: ScriptedModel, config: RunnableConfig
) -> None:
    agent = create_agent(
        model, system_prompt="Be brief.", middleware=[CodeInterpreterMiddleware(toolkit)]
    )
    agent.invoke(ask("Hello"), config)

    assert model.sent[0][0].text.startswith("Be brief.")
    assert SYSTEM_PROMPT in model.sent[0][0].text


async def test_files_of_messages_are_staged_and_leave_notes(
    toolkit: CodeInterpreterToolkit, model: ScriptedModel, config: RunnableConfig
) -> None:
    model.script = [call("run_code", code="print(open('numbers.csv').read())"), "Three."]
    agent = to_agent(toolkit, model)

    done = await agent.ainvoke(
        {"messages": [HumanMessage([{"type": "text", "text": "Sum?"}, CSV], id="message-1")]},
        config,
    )

    [question] = [message for message in done["messages"] if isinstance(message, HumanMessage)]
    assert question.id == "message-1"
    assert question.content == [
        {"type": "text", "text": "Sum?"},
        {"type": "text", "text": "[Attached file: /mnt/data/numbers.csv (6 bytes, text/csv)]"},
    ]
    assert results(done["messages"])[0].content == "n\n1\n2"
    assert "- numbers.csv (6 bytes" in str(model.sent[0][-1].content)
    assert [file.path for file in toolkit.list_files(config)] == ["numbers.csv"]


def test_images_are_staged_and_stay_for_the_model(
    toolkit: CodeInterpreterToolkit, model: ScriptedModel, config: RunnableConfig
) -> None:
    image = {"type": "image", "base64": PIXEL, "mime_type": "image/png"}
    agent = to_agent(toolkit, model)

    agent.invoke(ask(image, CSV), config)
    done = agent.invoke(ask("Again"), config)

    assert [block["type"] for block in done["messages"][0].content] == ["image", "text", "text"]
    assert toolkit.download_file("image.png", config) == base64.b64decode(PIXEL)


def test_images_without_a_name_replace_none_of_earlier_turns(
    toolkit: CodeInterpreterToolkit, model: ScriptedModel, config: RunnableConfig
) -> None:
    image = {"type": "image", "base64": PIXEL, "mime_type": "image/png"}
    agent = to_agent(toolkit, model)

    agent.invoke(ask(image), config)
    toolkit.upload_file("image.png", b"changed", config)
    done = agent.invoke(ask(image, image), config)

    names = [file.path for file in toolkit.list_files(config)]
    assert names == ["image-2.png", "image-3.png", "image.png"]
    assert toolkit.download_file("image.png", config) == b"changed"
    assert [block["text"].split()[2] for block in done["messages"][-2].content[1::2]] == [
        *("/mnt/data/image-2.png", "/mnt/data/image-3.png")
    ]


def test_images_are_staged_once(
    toolkit: CodeInterpreterToolkit, model: ScriptedModel, config: RunnableConfig
) -> None:
    agent = to_agent(toolkit, model)
    agent.invoke(ask({"type": "image", "base64": PIXEL, "mime_type": "image/png"}), config)
    toolkit.upload_file("image.png", b"changed", config)

    agent.invoke(ask("Again"), config)

    assert toolkit.download_file("image.png", config) == b"changed"


def test_files_can_be_referred_to_by_id(
    toolkit: CodeInterpreterToolkit, model: ScriptedModel, config: RunnableConfig
) -> None:
    async def add(service: Any, put: Any) -> str:
        return str((await service.uploads.add("large.csv", b"n\n1\n")).id)

    file_id = toolkit.connection.call(add)

    done = to_agent(toolkit, model).invoke(
        ask({"type": "file", "file_id": file_id}, {"type": "file", "file_id": "file-theirs"}),
        config,
    )

    assert done["messages"][0].content == [
        {"type": "text", "text": "[Attached file: /mnt/data/large.csv (4 bytes, text/csv)]"},
        {"type": "file", "file_id": "file-theirs"},
    ]


def test_file_that_cannot_be_staged_is_said(
    tmp_path_factory: pytest.TempPathFactory, model: ScriptedModel, config: RunnableConfig
) -> None:
    from ci_tools import Settings
    from ci_tools.testing import FakeBackend

    folder = tmp_path_factory.mktemp("small")
    settings = Settings(state_dir=folder / "state", file_limit=3)
    with CodeInterpreterToolkit.local(settings, backend=FakeBackend(folder / "f")) as toolkit:
        done = to_agent(toolkit, model).invoke(ask(CSV), config)

    assert "numbers.csv is not in /mnt/data" in done["messages"][0].text


@pytest.mark.parametrize("is_async", [False, True])
async def test_files_wait_for_a_service_that_is_away(
    local: CodeInterpreterToolkit,
    model: ScriptedModel,
    config: RunnableConfig,
    monkeypatch: pytest.MonkeyPatch,
    is_async: bool,
) -> None:
    agent = to_agent(local, model)

    async def run(question: Any) -> Any:
        if is_async:
            return await agent.ainvoke(question, config)
        return agent.invoke(question, config)

    def refuse(*arguments: object, **more: object) -> None:
        raise ServerUnavailableError("The service is away.")

    with monkeypatch.context() as patch:
        patch.setattr(local.access, "acall" if is_async else "call", refuse)
        first = await run(ask({"type": "text", "text": "Sum?"}, CSV))
    second = await run(ask("And now?"))

    # Meanwhile the model is told, and the bytes, which it could not read, are kept.
    assert first["messages"][0].content[1] == CSV
    assert "numbers.csv is not in /mnt/data yet" in str(model.sent[0][-1].content)
    assert "The service is away." in str(model.sent[0][-1].content)
    assert "base64" not in str(model.sent[0][-1].content)
    assert "Attached file" in second["messages"][0].content[1]["text"]
    assert "away" not in str(model.sent[1][-1].content)
    assert local.download_file("numbers.csv", config) == b"n\n1\n2\n"


def test_file_whose_session_fails_is_not_given_up(
    local: CodeInterpreterToolkit,
    model: ScriptedModel,
    config: RunnableConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ci_tools import SessionService

    async def refuse(*arguments: object) -> None:
        raise ServerUnavailableError("The service is away.")

    agent = to_agent(local, model)

    with monkeypatch.context() as patch:
        patch.setattr(SessionService, "upload_file", refuse)
        agent.invoke(ask(CSV), config)
    agent.invoke(ask("And now?"), config)

    assert local.download_file("numbers.csv", config) == b"n\n1\n2\n"


def test_next_turn_is_told_what_code_has_made(
    toolkit: CodeInterpreterToolkit, model: ScriptedModel, config: RunnableConfig
) -> None:
    agent = to_agent(toolkit, model)
    model.script = [call("run_code", code="x = 7; open('made.txt', 'w').write('hi')"), "Made."]
    agent.invoke(ask("Make it"), config)
    model.script = [call("run_code", code="x"), "Seven."]

    done = agent.invoke(ask("What is x?"), config)

    assert results(done["messages"])[-1].content == "7"
    assert "- made.txt (2 bytes" in str(model.sent[2][-1].content)
    assert "made.txt" not in str(done["messages"][-4].content)


def test_model_is_told_that_the_session_had_expired(
    local: CodeInterpreterToolkit, model: ScriptedModel, config: RunnableConfig
) -> None:
    agent = to_agent(local, model)
    model.script = [call("run_code", code="x = 7"), "Set."]
    done = agent.invoke(ask("Set x"), config)
    session_id = to_step(results(done["messages"])[0].artifact).session_id

    async def expire(service: Any, put: Any) -> None:
        await service.close_session(session_id)

    local.connection.call(expire)
    agent.invoke(ask("What is x?"), config)

    assert LOST in str(model.sent[-1][-1].content)


@pytest.mark.parametrize(
    ("profile", "places"),
    [
        (VISION, {"tool"}),
        ({"image_inputs": True}, {"human"}),
        ({}, set()),
        (None, set()),
    ],
)
def test_images_of_results_are_sent_where_the_model_takes_them(
    real: CodeInterpreterToolkit,
    model: ScriptedModel,
    config: RunnableConfig,
    profile: Any,
    places: set[str],
) -> None:
    model.script = [call("run_code", code=SHOW), "A pixel."]
    model.profile = profile

    done = to_agent(real, model).invoke(ask("Show"), config)

    found = {
        message.type
        for message in model.sent[1]
        if isinstance(message.content, list)
        for block in message.content
        if isinstance(block, dict) and block["type"] == "image"
    }
    assert found == places
    assert results(done["messages"])[0].content[-1]["type"] == "image"  # type: ignore[index]


def test_failed_code_ends_no_agent(
    toolkit: CodeInterpreterToolkit, model: ScriptedModel, config: RunnableConfig
) -> None:
    model.script = [
        call("run_code", code="1 / 0"),
        call("run_code", cod="typo"),
        call("read_file", path="none"),
        "I give up.",
    ]

    done = to_agent(toolkit, model).invoke(ask("Divide"), config)

    messages = results(done["messages"])
    assert [message.status for message in messages] == ["error"] * 3
    assert to_step(messages[0].artifact).status is StepStatus.FAILED
    assert done["messages"][-1].content == "I give up."


def test_parallel_calls_of_one_turn_share_the_session(
    toolkit: CodeInterpreterToolkit, model: ScriptedModel, config: RunnableConfig
) -> None:
    model.script = [
        [call("run_code", str(number), code=f"x{number} = {number}") for number in range(4)],
        call("run_code", code="x0 + x1 + x2 + x3"),
        "Six.",
    ]

    done = to_agent(toolkit, model).invoke(ask("Add"), config)

    assert results(done["messages"])[-1].content == "6"


def test_runs_without_a_thread_have_a_session_of_their_own(
    toolkit: CodeInterpreterToolkit, model: ScriptedModel
) -> None:
    agent = to_agent(toolkit, model, remembers=False)
    model.script = [call("run_code", code="x = 1"), call("run_code", code="x"), "One."]
    first = agent.invoke(ask("Set and get"))
    model.script = [call("run_code", code="x"), "None."]
    second = agent.invoke(ask("Get"))

    assert results(first["messages"])[-1].content == "1"
    assert "NameError" in str(results(second["messages"])[-1].content)


async def test_output_comes_live_on_the_streams_of_langgraph(
    toolkit: CodeInterpreterToolkit, model: ScriptedModel, config: RunnableConfig
) -> None:
    model.script = [call("run_code", code="print('live')"), "Done."]
    seen: dict[str, list[Any]] = {"tools": [], "custom": []}

    async for mode, event in to_agent(toolkit, model).astream(
        ask("Print"), config, stream_mode=["tools", "custom"]
    ):
        seen[mode].append(event)

    deltas = [event for event in seen["tools"] if event["event"] == "tool-output-delta"]
    assert [event["tool_call_id"] for event in deltas] == ["call_1"] * len(deltas)
    assert "".join(event["delta"]["text"] for event in deltas) == "live\n"
    assert "".join(event["output"]["text"] for event in seen["custom"]) == "live\n"
    assert {event["tool_call_id"] for event in seen["custom"]} == {"call_1"}


def test_output_comes_live_in_synchronous_streams(
    toolkit: CodeInterpreterToolkit, model: ScriptedModel, config: RunnableConfig
) -> None:
    model.script = [call("run_command", command="echo live"), "Done."]

    events = list(to_agent(toolkit, model).stream(ask("Print"), config, stream_mode="tools"))

    deltas = [event for event in events if event["event"] == "tool-output-delta"]
    assert "".join(event["delta"]["text"] for event in deltas) == "live\n"


def test_all_threads_can_share_a_given_session(
    toolkit: CodeInterpreterToolkit, model: ScriptedModel, config: RunnableConfig
) -> None:
    session = toolkit.session(config)
    model.script = [call("run_code", code="1"), "One."]
    agent = to_agent(toolkit, model, session_id=session.id, tools=("run_code",))

    done = agent.invoke(ask("One"), {"configurable": {"thread_id": "any"}})

    assert to_step(results(done["messages"])[0].artifact).session_id == session.id
    assert len(model.offered) == 1


def test_tools_are_named_by_the_caller(toolkit: CodeInterpreterToolkit) -> None:
    make: Callable[..., Any] = CodeInterpreterMiddleware

    with pytest.raises(ValueError, match="run_code"):
        make(toolkit, tools=("python",))
