"""`SessionSandbox` in every operation that deepagents makes of it, with real kernels."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from deepagents import create_deep_agent
from deepagents.backends.protocol import BackendProtocol, SandboxBackendProtocol
from langchain_core.runnables import RunnableConfig, RunnableLambda

from ci_tools.service import COMMAND_LIMIT
from langchain_ci_tools import CodeInterpreterMiddleware, CodeInterpreterToolkit, SessionSandbox
from langchain_ci_tools import sandbox as sandbox_module
from langchain_ci_tools.sessions import LOST
from tests.adapters.langchain.scripted import ScriptedModel, call
from tests.adapters.langchain.test_middleware import ask, results

ROOT = "/mnt/data"

OPERATIONS: dict[str, tuple[Any, ...]] = {
    "ls": (ROOT,),
    "read": (f"{ROOT}/a.txt",),
    "write": (f"{ROOT}/a.txt", "text"),
    "edit": (f"{ROOT}/a.txt", "text", "more"),
    "delete": (f"{ROOT}/a.txt",),
    "glob": ("*.txt", ROOT),
    "grep": ("text", ROOT),
    "upload_files": ([(f"{ROOT}/a.txt", b"text")],),
    "download_files": ([f"{ROOT}/a.txt"],),
    "execute": ("echo hello",),
}
"""A call of each operation of the protocol."""


@pytest.fixture
def sandbox(real: CodeInterpreterToolkit, request: pytest.FixtureRequest) -> SessionSandbox:
    return SessionSandbox(real, thread=request.node.nodeid)


def test_every_operation_of_the_protocol_is_tried_here() -> None:
    operations = {
        name
        for protocol in (BackendProtocol, SandboxBackendProtocol)
        for name, value in vars(protocol).items()
        if inspect.isfunction(value) and not name.startswith(("_", "a"))
    }

    assert operations <= set(OPERATIONS)


async def test_one_sandbox_serves_every_thread_its_own_session(
    real: CodeInterpreterToolkit, config: RunnableConfig
) -> None:
    sandbox = SessionSandbox(real)

    async def look(_: object) -> str:
        return (await sandbox.aexecute("ls")).output

    await real.aupload_file("mine.txt", b"", config)

    assert await RunnableLambda(look).ainvoke(None, config) == "mine.txt\n"
    assert await RunnableLambda(look).ainvoke(None, {"configurable": {"thread_id": "no"}}) == ""
    assert SessionSandbox(real, session_id=real.session(config).id).execute("ls").output != ""


def test_commands_end_when_their_time_is_up(sandbox: SessionSandbox) -> None:
    slow = sandbox.execute("echo begun; sleep 60", timeout=1)

    assert (slow.exit_code, slow.output.splitlines()[0]) == (124, "begun")


def test_files_are_written_and_read_wherever_the_sandbox_can(sandbox: SessionSandbox) -> None:
    written = sandbox.upload_files(
        [("/tmp/folder/a.txt", b"text"), ("/proc/a.txt", b""), ("/tmp/folder", b""), ("a.txt", b"")]
    )
    read = sandbox.download_files(["/tmp/folder/a.txt", "/tmp/none", "/tmp/folder", "a.txt"])

    assert [file.error for file in written] == [
        *(None, "permission_denied", "is_directory", "invalid_path")
    ]
    assert [file.content or file.error for file in read] == [
        *(b"text", "file_not_found", "is_directory", "invalid_path")
    ]
    assert sandbox.execute("ls -A /mnt/data; find /tmp/folder -type f").output == (
        "/tmp/folder/a.txt\n"
    )


def test_links_and_odd_names_are_read_and_what_is_no_file_is_refused(
    sandbox: SessionSandbox,
) -> None:
    sandbox.execute(
        "echo text > real; ln -s real link; ln -s none dangling; mkfifo pipe; "
        "echo odd > 'a\\b'; touch closed; chmod 000 closed"
    )

    names = ["link", "dangling", "pipe", "a\\b", "closed"]
    read = sandbox.download_files([f"{ROOT}/{name}" for name in names])

    assert [file.content or file.error for file in read] == [
        *(b"text\n", "file_not_found", "invalid_path", b"odd\n", "permission_denied")
    ]


def test_many_paths_are_looked_at_together(sandbox: SessionSandbox) -> None:
    read = sandbox.download_files([f"{ROOT}/{'x' * 60}{number}" for number in range(4_000)])

    assert {file.error for file in read} == {"file_not_found"}


@pytest.mark.parametrize("letters", ["ж" * 10_000, "字" * 8_000, "\n" * 20_000, "\x01" * 20_000])
def test_edits_of_all_alphabets_may_be_as_large_as_deepagents_makes_them(
    sandbox: SessionSandbox, letters: str
) -> None:
    sandbox.write(f"{ROOT}/a.txt", f"{letters}end")

    edited = sandbox.edit(f"{ROOT}/a.txt", letters, letters[1:])

    assert (edited.error, edited.occurrences) == (None, 1)
    [read] = sandbox.download_files([f"{ROOT}/a.txt"])
    assert read.content == f"{letters[1:]}end".encode()
    assert sandbox.execute("ls -A").output == "a.txt\n"


def test_long_commands_run_and_have_their_exit_code(sandbox: SessionSandbox) -> None:
    done = sandbox.execute(f"cat <<'E' | wc -c\n{'ж' * 100_000}\nE\nexit 3")

    assert (done.output.strip(), done.exit_code) == ("200001", 3)
    assert sandbox_module._COMMAND == COMMAND_LIMIT


def test_commands_with_halves_of_characters_run(sandbox: SessionSandbox) -> None:
    assert sandbox.execute("echo '\ud83d'").output == "?\n"


def test_globs_are_of_files_with_absolute_paths_and_writing_replaces(
    sandbox: SessionSandbox,
) -> None:
    """As newer versions of deepagents have it; the standard tests still expect otherwise."""
    sandbox.write(f"{ROOT}/folder/a.txt", "first")
    sandbox.write(f"{ROOT}/folder/a.txt", "second")

    found = sandbox.glob("*", ROOT)

    assert found.matches == [{"path": f"{ROOT}/folder/a.txt", "is_dir": False}]
    assert sandbox.read(f"{ROOT}/folder/a.txt").file_data == {
        "content": "second",
        "encoding": "utf-8",
    }


def find_error(result: Any) -> str:
    """Return how an operation says that it failed."""
    if isinstance(result, list):
        return str(result[0].error)
    return str(result.error if hasattr(result, "error") else result.output)


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_service_that_is_away_is_said_and_ends_no_agent(operation: str) -> None:
    with CodeInterpreterToolkit.connect("http://127.0.0.1:9", "cit_none") as toolkit:
        sandbox = SessionSandbox(toolkit, thread="away")

        done = getattr(sandbox, operation)(*OPERATIONS[operation])
        done_async = await getattr(sandbox, f"a{operation}")(*OPERATIONS[operation])

    assert "cannot be reached" in find_error(done)
    assert "cannot be reached" in find_error(done_async)


def test_session_that_has_expired_is_said_once(local: CodeInterpreterToolkit) -> None:
    sandbox = SessionSandbox(local, thread="expired")
    session_id = local.session("expired").id

    async def expire(service: Any, put: Any) -> None:
        await service.close_session(session_id)

    local.connection.call(expire)

    assert sandbox.execute("echo hello").output == f"[{LOST}]\nhello\n"
    assert sandbox.execute("echo hello").output == "hello\n"


@pytest.mark.parametrize("name", ["agent", "subagent"])
def test_runs_without_a_thread_have_one_session_for_shell_and_code(
    local: CodeInterpreterToolkit, model: ScriptedModel, name: str
) -> None:
    write: list[Any] = [call("execute", "1", command="echo x > made.txt")]
    if name == "subagent":
        task = call("task", "0", description="Write it", subagent_type="general-purpose")
        write = [task, *write, "Written."]
    look = call("run_code", "2", code="import os; os.listdir('.')")
    model.script = [*write, look, "Done."]
    make: Callable[..., Any] = create_deep_agent
    agent = make(
        model,
        backend=SessionSandbox(local),
        middleware=[CodeInterpreterMiddleware(local, tools=("run_code",))],
    )

    done = agent.invoke(ask("Write a file"))

    assert results(done["messages"])[-1].content == "['made.txt']"


def test_the_agents_session_goes_for_its_sandbox_too(
    local: CodeInterpreterToolkit, model: ScriptedModel, config: RunnableConfig
) -> None:
    session = local.session("given")
    model.script = [call("execute", "1", command="echo x > made.txt"), "Done."]
    make: Callable[..., Any] = create_deep_agent
    middleware = CodeInterpreterMiddleware(local, tools=("run_code",), session_id=session.id)
    agent = make(model, backend=SessionSandbox(local), middleware=[middleware])

    agent.invoke(ask("Write a file"), config)

    assert [file.path for file in local.list_files("given")] == ["made.txt"]
