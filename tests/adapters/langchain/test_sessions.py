"""Which session a call belongs to."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest
from langchain_core.messages import ToolMessage
from langchain_core.runnables import RunnableConfig

from ci_tools import LimitError, Session, Settings
from ci_tools.testing import FakeBackend
from langchain_ci_tools import CodeInterpreterToolkit, to_step
from langchain_ci_tools.sessions import KEY, find_thread, patiently, to_name
from tests.adapters.langchain.conftest import serve

CONFIG: RunnableConfig = {"configurable": {"thread_id": "thread-1"}}

CALL: Any = {"name": "run_code", "args": {"code": "1"}, "id": "1", "type": "tool_call"}


def test_state_goes_before_the_configuration() -> None:
    assert find_thread(CONFIG, {KEY: "kept"}) == "kept"
    assert find_thread(CONFIG, {}) == "thread-1"
    assert find_thread({"configurable": {"thread_id": 7}}, None) == "7"
    assert find_thread(None, None) is None


def test_names_of_sessions_carry_the_thread() -> None:
    assert to_name("thread-1") == "thread:thread-1"
    assert len(to_name("x" * 10_000)) < 100
    assert to_name("a\nb") != to_name("a b")


def test_a_service_that_is_started_again_finds_the_session_of_the_thread(tmp_path: Path) -> None:
    sessions: list[Session] = []
    for _ in range(2):
        settings = Settings(state_dir=tmp_path / "state")
        backend = FakeBackend(tmp_path / "folders")
        with CodeInterpreterToolkit.local(settings, backend=backend) as toolkit:
            toolkit.get_tools("run_code")[0].invoke({"code": "x = 1"}, CONFIG)
            sessions.append(toolkit.session(CONFIG))

    assert sessions[0].id == sessions[1].id


def test_expired_session_is_replaced_and_the_model_is_told(
    local: CodeInterpreterToolkit,
) -> None:
    [run_code] = local.get_tools("run_code")
    before = to_step(run_code.invoke(CALL, CONFIG).artifact).session_id

    async def expire(service: Any, put: Any) -> None:
        await service.close_session(before)

    local.connection.call(expire)

    message = run_code.invoke(CALL, CONFIG)

    assert isinstance(message, ToolMessage)
    assert to_step(message.artifact).session_id != before
    assert "had expired" in str(message.content)


def test_given_session_that_is_gone_is_an_error(local: CodeInterpreterToolkit) -> None:
    [run_code] = local.get_tools("run_code", session_id="sess_" + "x" * 24)

    assert run_code.invoke(CALL).status == "error"


def test_given_session_is_used_whatever_the_thread(local: CodeInterpreterToolkit) -> None:
    session = local.session(CONFIG)
    [run_code] = local.get_tools("run_code", session_id=session.id)

    message = run_code.invoke(CALL, {"configurable": {"thread_id": "another"}})

    assert to_step(message.artifact).session_id == session.id


async def test_calls_wait_where_the_service_has_too_much_to_do() -> None:
    refusals = [LimitError("busy", retry_after=0.01), LimitError("busy", retry_after=0.01)]

    async def work() -> str:
        if refusals:
            raise refusals.pop()
        return "done"

    with anyio.fail_after(5):
        assert await patiently(work) == "done"


async def test_calls_do_not_wait_where_that_does_not_help() -> None:
    async def work() -> None:
        raise LimitError("full")

    with pytest.raises(LimitError):
        await patiently(work)


@pytest.mark.parametrize("kernels", ["fake", "real", "remote"])
async def test_fifty_threads_at_once_have_a_session_each(tmp_path: Path, kernels: str) -> None:
    """More than the service runs at once for one principal, so some have to wait."""
    messages: list[ToolMessage] = []
    with ExitStack() as stack:
        if kernels == "remote":
            url, token = stack.enter_context(serve(tmp_path, CI_TOOLS_STEPS_PER_PRINCIPAL="8"))
            toolkit = CodeInterpreterToolkit.connect(url, token)
        else:
            settings = Settings(state_dir=tmp_path / "state", steps_per_principal=8)
            backend = FakeBackend(tmp_path / "folders") if kernels == "fake" else None
            toolkit = CodeInterpreterToolkit.local(settings, backend=backend)
        stack.enter_context(toolkit)
        [run_code] = toolkit.get_tools("run_code")

        async def work(number: int) -> None:
            config: RunnableConfig = {"configurable": {"thread_id": f"thread-{number}"}}
            await run_code.ainvoke({"code": f"x = {number}"}, config)
            call = {**CALL, "args": {"code": "x"}, "id": str(number)}
            messages.append(await run_code.ainvoke(call, config))

        with anyio.fail_after(240):
            async with anyio.create_task_group() as tasks:
                for number in range(50):
                    tasks.start_soon(work, number)

    assert [(str(message.content), message.status) for message in messages] == [
        (message.tool_call_id, "success") for message in messages
    ]
    assert len({to_step(message.artifact).session_id for message in messages}) == 50
