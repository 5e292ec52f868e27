"""The middleware's state in real checkpointers: interrupted by one toolkit, resumed by another."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.types import Command

from ci_tools import Settings
from ci_tools.testing import FakeBackend
from langchain_ci_tools import CodeInterpreterMiddleware, CodeInterpreterToolkit, to_step
from tests.adapters.langchain.scripted import ScriptedModel, call
from tests.adapters.langchain.test_middleware import CSV, ask, results

CONFIG: RunnableConfig = {"configurable": {"thread_id": "checkpoints"}}


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "checkpoints.db")
    found: str = request.getfixturevalue("postgresql")
    return found


@asynccontextmanager
async def open_agent(url: str, folder: Path, model: ScriptedModel) -> AsyncIterator[Any]:
    """Open everything anew, as another process would: saver, toolkit and agent."""
    opener: Any = AsyncPostgresSaver if url.startswith("postgresql:") else AsyncSqliteSaver
    saver: BaseCheckpointSaver[Any]
    async with opener.from_conn_string(url) as saver:
        await saver.setup()  # type: ignore[attr-defined]
        settings = Settings(state_dir=folder / "state")
        backend = FakeBackend(folder / "folders")
        async with CodeInterpreterToolkit.local(settings, backend=backend) as toolkit:
            middleware: list[Any] = [
                CodeInterpreterMiddleware(toolkit),
                HumanInTheLoopMiddleware(interrupt_on={"run_code": True}),
            ]
            yield create_agent(model, middleware=middleware, checkpointer=saver)


async def test_agent_goes_on_where_it_was_interrupted(
    url: str, tmp_path: Path, model: ScriptedModel
) -> None:
    approve: Any = Command(resume={"decisions": [{"type": "approve"}]})
    async with open_agent(url, tmp_path, model) as agent:
        model.script = [call("run_code", code="print(open('numbers.csv').read())")]
        asked = await agent.ainvoke(ask({"type": "text", "text": "Read it."}, CSV), CONFIG)
    async with open_agent(url, tmp_path, model) as agent:
        model.script = [call("run_code", "call_2", code="open('more.txt', 'w').write('x')")]
        first = await agent.ainvoke(approve, CONFIG)
    async with open_agent(url, tmp_path, model) as agent:
        model.script = ["Done."]
        second = await agent.ainvoke(approve, CONFIG)
        await agent.ainvoke(ask("And now?"), CONFIG)

    assert "__interrupt__" in asked and "__interrupt__" in first
    read, wrote = [str(message.content) for message in results(second["messages"])]
    assert read == "n\n1\n2"
    assert "variables lost" in wrote
    steps = [to_step(message.artifact) for message in results(second["messages"])]
    assert len({step.session_id for step in steps}) == 1
    # The bytes of the attached file are in no message any more, and the model knows of both files.
    assert str(CSV["base64"]) not in str(second["messages"])
    assert "- more.txt" in str(model.sent[-1][-1].content)
    assert "- numbers.csv" in str(model.sent[-1][-1].content)
