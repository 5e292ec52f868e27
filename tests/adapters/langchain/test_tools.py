"""The tools, local and remote alike."""

import base64
import threading
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from langchain_core.messages import ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool

from ci_tools import CommandResult, File, RunStep, StepStatus
from langchain_ci_tools import CodeInterpreterToolkit, to_step
from tests.adapters.langchain.scripted import VISION, ScriptedModel

FindTool = Callable[[str], BaseTool]

PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
    "gg=="
)
"""A PNG image of one pixel."""


def to_call(tool: str, **arguments: object) -> dict[str, Any]:
    return {"name": tool, "args": arguments, "id": "call_1", "type": "tool_call"}


def ask(tool: BaseTool, config: RunnableConfig, **arguments: object) -> ToolMessage:
    message = tool.invoke(to_call(tool.name, **arguments), config)
    assert isinstance(message, ToolMessage)
    return message


def test_variables_stay_for_the_next_call_of_the_thread(
    find_tool: FindTool, config: RunnableConfig
) -> None:
    run_code = find_tool("run_code")
    run_code.invoke({"code": "x = 20"}, config)

    message = ask(run_code, config, code="x + 1")

    assert (message.content, message.status) == ("21", "success")
    assert isinstance(message.artifact, RunStep)
    assert message.artifact.status is StepStatus.COMPLETED


async def test_asynchronous_calls_see_the_same_session(
    find_tool: FindTool, config: RunnableConfig
) -> None:
    run_code = find_tool("run_code")
    await run_code.ainvoke({"code": "x = 20"}, config)

    assert run_code.invoke({"code": "x"}, config) == "20"
    assert await run_code.ainvoke({"code": "x"}, config) == "20"


def test_another_thread_has_another_session(find_tool: FindTool, config: RunnableConfig) -> None:
    run_code = find_tool("run_code")
    run_code.invoke({"code": "x = 20"}, config)

    other = ask(run_code, {"configurable": {"thread_id": "another"}}, code="x")

    assert "NameError" in str(other.content)


def test_calls_without_a_thread_share_a_session(find_tool: FindTool) -> None:
    run_code = find_tool("run_code")
    run_code.invoke("y = 5")

    assert run_code.invoke("y") == "5"


def test_failed_code_is_an_error_message_with_its_step(
    find_tool: FindTool, config: RunnableConfig
) -> None:
    message = ask(find_tool("run_code"), config, code="print('before')\n1 / 0")

    assert message.status == "error"
    assert "before" in str(message.content)
    assert "ZeroDivisionError" in str(message.content)
    assert to_step(message.artifact).status is StepStatus.FAILED
    assert message.tool_call_id == "call_1"


def test_failed_code_of_a_plain_call_is_its_text(
    find_tool: FindTool, config: RunnableConfig
) -> None:
    assert "ZeroDivisionError" in find_tool("run_code").invoke({"code": "1 / 0"}, config)


def test_code_past_its_limit_is_an_error_message(
    find_tool: FindTool, config: RunnableConfig
) -> None:
    message = ask(find_tool("run_code"), config, code="import time; time.sleep(60)", timeout_s=0.2)

    assert message.status == "error"
    assert to_step(message.artifact).status is StepStatus.EXPIRED


@pytest.mark.parametrize(
    ("tool", "arguments", "words"),
    [
        ("read_file", {"path": "none.txt"}, "list_files"),
        ("read_file", {"path": "../secret"}, "/mnt/data"),
        ("upload_file", {"path": "a", "content": "!", "encoding": "base64"}, "base64"),
        ("get_run_step", {"step_id": "step_" + "x" * 24}, "list_run_steps"),
        ("run_code", {"code": "1", "timeout_s": 1e9}, "timeout"),
        ("run_code", {"cod": "1"}, "code: Field required"),
        ("run_code", {"code": "1", "timeout_s": -1}, "greater than 0"),
    ],
)
def test_what_goes_wrong_is_an_error_message(
    find_tool: FindTool,
    config: RunnableConfig,
    tool: str,
    arguments: dict[str, object],
    words: str,
) -> None:
    message = ask(find_tool(tool), config, **arguments)

    assert message.status == "error"
    assert words in str(message.content)


def test_command_runs_beside_the_code(find_tool: FindTool, config: RunnableConfig) -> None:
    message = ask(find_tool("run_command"), config, command="echo out; echo err >&2; exit 3")

    assert message.status == "error"
    assert isinstance(message.artifact, CommandResult)
    assert (message.artifact.stdout, message.artifact.exit_status) == ("out\n", 3)
    assert "Exit status 3" in str(message.content)


def test_files_go_in_and_out(find_tool: FindTool, config: RunnableConfig) -> None:
    written = ask(find_tool("upload_file"), config, path="in/a.csv", content="n\n1\n2\n")
    code = "text = open('in/a.csv').read()\nopen('out.txt', 'w').write(text.upper())"
    step = to_step(ask(find_tool("run_code"), config, code=code).artifact)

    listed = ask(find_tool("list_files"), config)
    read = ask(find_tool("read_file"), config, path="/mnt/data/out.txt")

    assert isinstance(written.artifact, File)
    assert [file.path for file in step.files] == ["out.txt"]
    assert [file.path for file in listed.artifact] == ["in/a.csv", "out.txt"]
    assert "N\n1\n2\n" in str(read.content)
    assert isinstance(read.artifact, File)


def test_lists_of_files_can_be_filtered(find_tool: FindTool, config: RunnableConfig) -> None:
    for name in ("a.csv", "b.txt", "c.csv"):
        ask(find_tool("upload_file"), config, path=name, content="x")

    listed = ask(find_tool("list_files"), config, pattern="*.csv")
    short = ask(find_tool("list_files"), config, limit=1)

    assert [file.path for file in listed.artifact] == ["a.csv", "c.csv"]
    assert "more" in str(short.content)


def test_text_files_are_read_page_by_page(find_tool: FindTool, config: RunnableConfig) -> None:
    ask(find_tool("upload_file"), config, path="a.txt", content="ä" * 10)

    first = ask(find_tool("read_file"), config, path="a.txt", limit=5)
    second = ask(find_tool("read_file"), config, path="a.txt", offset=4)

    assert "offset=4" in str(first.content)
    assert str(first.content).endswith("ää")
    assert str(second.content).endswith("ä" * 8)


def test_images_are_blocks_for_models_that_take_them_there(
    toolkit: CodeInterpreterToolkit, config: RunnableConfig
) -> None:
    toolkit.upload_file("plot.png", base64.b64decode(PIXEL), config)
    [blind] = toolkit.get_tools("read_file")
    [seeing] = toolkit.make_tools("read_file", model=ScriptedModel(profile=VISION))

    shown = ask(seeing, config, path="plot.png")

    assert shown.content[1] == {"type": "image", "base64": PIXEL, "mime_type": "image/png"}
    assert "not shown" in str(ask(blind, config, path="plot.png").content)


def test_pdf_files_are_blocks_for_models_that_take_them_there(
    toolkit: CodeInterpreterToolkit, config: RunnableConfig
) -> None:
    toolkit.upload_file("a.pdf", b"%PDF-1.4 \0", config)
    profile: Any = {**VISION, "pdf_tool_message": True}
    [read_file] = toolkit.make_tools("read_file", model=ScriptedModel(profile=profile))

    shown = ask(read_file, config, path="a.pdf")

    assert shown.content[1] == {
        "type": "file",
        "base64": base64.b64encode(b"%PDF-1.4 \0").decode(),
        "mime_type": "application/pdf",
        "extras": {"filename": "a.pdf"},
    }


def test_steps_are_listed_newest_first_and_found_again(
    find_tool: FindTool, config: RunnableConfig
) -> None:
    first = to_step(ask(find_tool("run_code"), config, code="1").artifact)
    ask(find_tool("run_code"), config, code="1 / 0")

    listed = ask(find_tool("list_run_steps"), config)
    again = ask(find_tool("get_run_step"), config, step_id=first.id)

    assert [to_step(step).code for step in listed.artifact] == ["1 / 0", "1"]
    assert again.content == "1"
    assert to_step(again.artifact).id == first.id


def test_step_of_another_thread_does_not_exist(find_tool: FindTool, config: RunnableConfig) -> None:
    step = to_step(ask(find_tool("run_code"), config, code="1").artifact)

    message = ask(
        find_tool("get_run_step"), {"configurable": {"thread_id": "spy"}}, step_id=step.id
    )

    assert message.status == "error"


def test_cut_text_is_read_page_by_page(find_tool: FindTool, config: RunnableConfig) -> None:
    code = "print('a' * 50 + chr(10), end='') or [print('b' * 99) for _ in range(20000)] and None"
    message = ask(find_tool("run_code"), config, code=code)
    step = to_step(message.artifact)

    page = ask(find_tool("get_run_step"), config, step_id=step.id, offset=0)

    assert f'get_run_step(step_id="{step.id}", offset=0)' in str(message.content)
    assert str(page.content).splitlines()[2] == "a" * 50
    assert "To read on" in str(page.content)


async def test_output_comes_live_as_custom_events(
    find_tool: FindTool, config: RunnableConfig
) -> None:
    code = "print('one', flush=True)\nimport time; time.sleep(0.3)\nprint('two')"
    texts: list[str] = []

    async for event in find_tool("run_code").astream_events({"code": code}, config, version="v2"):
        if event["event"] == "on_custom_event":
            assert event["name"] == "ci_tools_output"
            texts.append(event["data"]["output"]["text"])

    assert "".join(texts).replace("\r", "") == "one\ntwo\n"
    assert len(texts) > 1


async def test_cancelled_call_interrupts_the_code_and_its_step_says_so(
    find_tool: FindTool, config: RunnableConfig
) -> None:
    run_code = find_tool("run_code")
    await run_code.ainvoke({"code": "x = 1"}, config)
    started = anyio.Event()
    scope = anyio.CancelScope()

    async def listen() -> None:
        code = "x = 2\nprint('started', flush=True)\nimport time; time.sleep(60)\nx = 3"
        with scope:
            async for event in run_code.astream_events({"code": code}, config, version="v2"):
                if event["event"] == "on_custom_event":
                    started.set()

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen)
            await started.wait()
            scope.cancel()
        while True:
            # astream_events runs the tool in a task of its own, which ends a moment later.
            steps = await find_tool("list_run_steps").ainvoke(to_call("list_run_steps"), config)
            if to_step(steps.artifact[0]).status is not StepStatus.IN_PROGRESS:
                break
            await anyio.sleep(0.05)

    assert to_step(steps.artifact[0]).status is StepStatus.CANCELLED
    assert await run_code.ainvoke({"code": "x"}, config) == "2"


async def test_code_is_interrupted_from_outside_and_its_variables_stay(
    toolkit: CodeInterpreterToolkit, find_tool: FindTool, config: RunnableConfig
) -> None:
    run_code = find_tool("run_code")
    assert toolkit.interrupt(config) is None
    code = "x = 1\nprint('started', flush=True)\nimport time; time.sleep(60)\nx = 2"
    interrupted: list[RunStep | None] = []

    with anyio.fail_after(20):
        async for event in run_code.astream_events(
            to_call("run_code", code=code), config, version="v2"
        ):
            if event["event"] == "on_custom_event" and not interrupted:
                interrupted.append(await toolkit.ainterrupt(config))
            if event["event"] == "on_tool_end":
                message = event["data"]["output"]

    assert message.status == "error"
    assert message.artifact == interrupted[0]
    assert message.artifact.status is StepStatus.CANCELLED
    assert await run_code.ainvoke({"code": "x"}, config) == "1"


def test_artifact_is_the_step_that_the_service_has(
    toolkit: CodeInterpreterToolkit, find_tool: FindTool, config: RunnableConfig
) -> None:
    artifact = ask(find_tool("run_code"), config, code="print('one')").artifact

    async def get(service: Any, put: Any) -> RunStep:
        step: RunStep = await service.get_run_step(artifact.id)
        return step

    step = toolkit.connection.call(get)
    assert artifact == step and step == artifact
    assert artifact != to_step(ask(find_tool("run_code"), config, code="2").artifact)


async def test_parallel_calls_of_a_new_thread_share_one_session(
    find_tool: FindTool, config: RunnableConfig
) -> None:
    run_code = find_tool("run_code")
    messages: list[ToolMessage] = []

    async def run(number: int) -> None:
        messages.append(await run_code.ainvoke(to_call("run_code", code=str(number)), config))

    async with anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(run, number)

    assert len({to_step(message.artifact).session_id for message in messages}) == 1
    assert sorted(str(message.content) for message in messages) == [str(n) for n in range(8)]


def test_system_threads_share_the_tools(find_tool: FindTool, config: RunnableConfig) -> None:
    results: list[str] = []

    def work(number: int) -> None:
        mine: RunnableConfig = {"configurable": {"thread_id": f"{config}-{number}"}}
        find_tool("run_code").invoke({"code": f"x = {number}"}, mine)
        results.append(find_tool("run_code").invoke({"code": "x"}, mine))

    workers = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert sorted(results) == [str(number) for number in range(6)]


def test_the_model_sees_no_arguments_of_ours(toolkit: CodeInterpreterToolkit) -> None:
    for tool in toolkit.get_tools():
        schema: Any = tool.tool_call_schema
        assert "runtime" not in schema.model_json_schema()["properties"]
        assert len(tool.description) < 300


def test_host_reads_and_writes_the_files_of_a_thread(
    toolkit: CodeInterpreterToolkit, find_tool: FindTool, config: RunnableConfig, tmp_path: Any
) -> None:
    (tmp_path / "b.bin").write_bytes(b"\0" * 3_000_000)
    toolkit.upload_file("a.txt", "text", config)
    toolkit.upload_file("b.bin", tmp_path / "b.bin", config)
    find_tool("run_code").invoke({"code": "open('c.txt', 'w').write('made')"}, config)

    assert [file.path for file in toolkit.list_files(config)] == ["a.txt", "b.bin", "c.txt"]
    assert toolkit.download_file("c.txt", config) == b"made"
    assert len(toolkit.download_file("b.bin", config)) == 3_000_000


async def test_host_reads_and_writes_files_asynchronously(
    toolkit: CodeInterpreterToolkit, config: RunnableConfig
) -> None:
    await toolkit.aupload_file("a.txt", b"text", config)

    assert [file.path for file in await toolkit.alist_files(config)] == ["a.txt"]
    assert await toolkit.adownload_file("a.txt", config) == b"text"
    assert (await toolkit.asession(config)).name is not None


def test_unknown_tools_are_refused(toolkit: CodeInterpreterToolkit) -> None:
    with pytest.raises(ValueError, match="run_code"):
        toolkit.get_tools("execute")
