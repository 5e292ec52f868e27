"""Whole agents with real kernels: what a user would have them do, with a scripted model."""

import asyncio
import base64
from pathlib import Path
from typing import Any

import anyio
import pytest
from deepagents import create_deep_agent
from deepagents.backends.composite import CompositeBackend
from langchain.agents import create_agent
from langchain_core.messages import BaseMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from ci_tools import Settings, StepStatus
from langchain_ci_tools import (
    CodeInterpreterMiddleware,
    CodeInterpreterToolkit,
    SessionSandbox,
    to_step,
)
from tests.adapters.langchain.conftest import serve
from tests.adapters.langchain.scripted import VISION, ScriptedModel, call
from tests.adapters.langchain.test_middleware import ask, results, to_agent

ROWS = "\n".join(f"{year},{300 + year % 100 * 1.5}" for year in range(1960, 2000))


def attach(text: str, name: str) -> dict[str, Any]:
    return {
        "type": "file",
        "base64": base64.b64encode(text.encode()).decode(),
        "mime_type": "text/csv",
        "extras": {"filename": name},
    }


WRONG = "import pandas as pd\ndata = pd.read_csv('co2.csv')\ndata['ppm'].mean()"

PLOT = (
    "import matplotlib.pyplot as plt\n"
    "axes = data.plot(x='year', y='co2')\n"
    "plt.savefig('co2.png')\n"
    "data.describe().to_csv('summary.csv')\n"
    "plt.show()"
)


def correct(messages: list[BaseMessage]) -> Any:
    """Read the error, as a model does, and use the right column."""
    error = results(messages)[-1]
    assert error.status == "error" and "KeyError" in str(error.content)
    return call("run_code", "call_2", code="print(list(data.columns)); data['co2'].mean()")


def answer(messages: list[BaseMessage]) -> str:
    step = to_step(results(messages)[-1].artifact)
    return "See " + " and ".join(sorted(file.path for file in step.files))


SCRIPT = [call("run_code", "call_1", code=WRONG), correct, call("run_code", "call_3", code=PLOT)]


def check_analysis(
    toolkit: CodeInterpreterToolkit, model: ScriptedModel, done: Any, config: RunnableConfig
) -> None:
    ran = results(done["messages"])
    assert [message.status for message in ran] == ["error", "success", "success"]
    assert "['year', 'co2']" in str(ran[1].content)
    assert done["messages"][-1].content == "See co2.png and summary.csv"
    # The model sees its plot, and the user gets the files.
    shown = [block for block in model.sent[-1][-1].content if isinstance(block, dict)]
    assert shown[-1]["type"] == "image"
    assert toolkit.download_file("co2.png", config).startswith(b"\x89PNG")
    assert b"mean" in toolkit.download_file("summary.csv", config)


@pytest.mark.parametrize("is_async", [False, True])
async def test_agent_analyses_a_file_plots_it_and_mends_its_error(
    real: CodeInterpreterToolkit, model: ScriptedModel, config: RunnableConfig, is_async: bool
) -> None:
    model.script, model.profile = [*SCRIPT, answer], VISION
    agent = to_agent(real, model)
    question = ask({"type": "text", "text": "Plot it."}, attach(f"year,co2\n{ROWS}", "co2.csv"))

    if is_async:
        done = await agent.ainvoke(question, config)
    else:
        done = agent.invoke(question, config)

    check_analysis(real, model, done, config)


@pytest.mark.parametrize("kind", ["real", "real_remote"])
async def test_deep_agent_has_shell_files_and_python_with_state_on_one_folder(
    kind: str, request: pytest.FixtureRequest, model: ScriptedModel, config: RunnableConfig
) -> None:
    real: CodeInterpreterToolkit = request.getfixturevalue(kind)
    model.profile = VISION
    model.script = [
        call("write_file", "1", file_path="/mnt/data/co2.csv", content=f"year,co2\n{ROWS}\n"),
        call("execute", "2", command="wc -l < co2.csv; echo shell > shell.txt"),
        call("run_code", "3", code="import pandas as pd; data = pd.read_csv('co2.csv'); len(data)"),
        call("run_code", "4", code=PLOT),
        call("grep", "5", pattern="mean", path="/mnt/data", output_mode="content"),
        call("read_file", "6", file_path="/mnt/data/shell.txt"),
        "Done.",
    ]
    sandbox = SessionSandbox(real)
    agent = create_deep_agent(
        model,
        backend=CompositeBackend(sandbox, {}, artifacts_root="/mnt/data/.agent"),
        middleware=[CodeInterpreterMiddleware(real, tools=("run_code", "get_run_step"))],
        checkpointer=InMemorySaver(),
    )

    done = await agent.ainvoke({"messages": [HumanMessage("Analyse.")]}, config)

    texts = [message.text for message in results(done["messages"])]
    assert [message.status for message in results(done["messages"])] == ["success"] * 6, texts
    assert texts[1].startswith("41")
    assert texts[2] == "40"
    assert "summary.csv" in texts[4] and "mean" in texts[4]
    assert "shell" in texts[5]
    assert results(done["messages"])[3].content[-1]["type"] == "image"  # type: ignore[index]
    assert [file.path for file in real.list_files(config)][:2] == ["co2.csv", "co2.png"]


async def test_cancelled_agent_leaves_its_variables_and_a_cancelled_step(
    real: CodeInterpreterToolkit, model: ScriptedModel, config: RunnableConfig
) -> None:
    code = "x = 1\nprint('started', flush=True)\nimport time\nwhile True: time.sleep(0.01); x += 1"
    model.script = [call("run_code", code=code)]
    agent = to_agent(real, model)
    started = anyio.Event()

    async def stream() -> None:
        # With "tools" alone LangGraph 1.2 tells everything at the end of the call.
        modes = ["tools", "custom"]
        async for mode, event in agent.astream(ask("Loop"), config, stream_mode=modes):
            if mode == "tools" and event["event"] == "tool-output-delta":
                started.set()

    # As asyncio cancels, once: the scopes of anyio cancel LangGraph's own clean-up too.
    task = asyncio.get_running_loop().create_task(stream())
    with anyio.fail_after(30):
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    [listed] = real.get_tools("list_run_steps")
    call_ = {"name": "list_run_steps", "args": {}, "id": "1", "type": "tool_call"}
    step = to_step((await listed.ainvoke(call_, config)).artifact[0])
    assert step.status is StepStatus.CANCELLED
    [run_code] = real.get_tools("run_code")
    assert int(await run_code.ainvoke({"code": "x"}, config)) >= 1


async def test_run_that_a_cancel_scope_ends_can_interrupt_its_code(
    real: CodeInterpreterToolkit, model: ScriptedModel, config: RunnableConfig
) -> None:
    """As the page has it for servers, whose frameworks cancel with scopes when a user leaves."""
    code = "x = 1\nprint('started', flush=True)\nimport time\nwhile True: time.sleep(0.01)"
    model.script = [call("run_code", code=code)]
    agent = to_agent(real, model)

    with anyio.fail_after(30):
        with anyio.CancelScope() as scope:
            try:
                async for _ in agent.astream(ask("Loop"), config, stream_mode="custom"):
                    scope.cancel()
            except asyncio.CancelledError:
                with anyio.CancelScope(shield=True):
                    step = await real.ainterrupt(config)
                raise

    assert step is not None and step.status is StepStatus.CANCELLED
    [run_code] = real.get_tools("run_code")
    assert await run_code.ainvoke({"code": "x"}, config) == "1"


async def test_service_restarts_between_two_turns(tmp_path: Any, model: ScriptedModel) -> None:
    """The kernel ends with the embedded server: the files stay, and the model is told."""
    config: RunnableConfig = {"configurable": {"thread_id": "restart"}}
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "checkpoints.db")) as saver:
        for code in ("x = 1; open('kept.txt', 'w').write('kept')", "open('kept.txt').read(), x"):
            model.script = [call("run_code", code=code), "Done."]
            settings = Settings(state_dir=tmp_path / "state")
            async with CodeInterpreterToolkit.local(settings) as toolkit:
                agent = create_agent(
                    model, middleware=[CodeInterpreterMiddleware(toolkit)], checkpointer=saver
                )
                done = await agent.ainvoke(ask("Go on"), config)

    first, second = results(done["messages"])
    assert (first.status, second.status) == ("success", "error")
    assert "variables lost" in str(second.content)
    assert "- kept.txt" in str(model.sent[2][-1].content)
    assert to_step(first.artifact).session_id == to_step(second.artifact).session_id
    assert isinstance(second, ToolMessage)


async def test_shared_service_restarts_between_two_turns(
    tmp_path: Path, model: ScriptedModel, config: RunnableConfig
) -> None:
    """The same toolkit and agent go on; a turn while it is away tells the model so."""
    with serve(tmp_path) as (url, token):
        toolkit = CodeInterpreterToolkit.connect(url, token)
        agent = to_agent(toolkit, model)
        model.script = [call("run_code", code="x = 1; open('kept.txt', 'w').write('kept')"), "Set."]
        first = await agent.ainvoke(ask("Set x"), config)
    model.script = [call("run_code", code="x"), "It is away."]
    second = await agent.ainvoke(ask("What is x?"), config)
    with serve(tmp_path, port=int(url.rpartition(":")[2])):
        model.script = [call("run_code", code="open('kept.txt').read(), x"), "It is lost."]
        third = await agent.ainvoke(ask("And now?"), config)
        await toolkit.aclose()

    before, away, after = results(third["messages"])
    assert to_step(before.artifact) == results(first["messages"])[0].artifact
    assert "cannot be reached" in str(away.content)
    assert second["messages"][-1].content == "It is away."
    assert "cannot be reached" in str(model.sent[2][-1].content)
    assert "- kept.txt" in str(model.sent[4][-1].content)
    assert "variables lost" in str(after.content)
    assert to_step(before.artifact).session_id == to_step(after.artifact).session_id
