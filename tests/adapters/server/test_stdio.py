import json
import os
import signal
import sys
from pathlib import Path
from subprocess import PIPE

import anyio
import pytest
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.text import TextReceiveStream
from mcp import Client
from mcp.shared.exceptions import MCPError

from ci_tools import Settings, open_service
from ci_tools.testing import FakeBackend
from tests.adapters.server.processes import (
    FAKE,
    call,
    descendants,
    environment,
    run,
    serving,
    session_of,
    stdio,
    wait_until_gone,
)
from tests.adapters.server.test_serve import connect

HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}

RUN = (
    {"jsonrpc": "2.0", "method": "notifications/initialized"},
    {
        "jsonrpc": "2.0",
        "id": 2,
        "method": "tools/call",
        "params": {
            "name": "run_code",
            "arguments": {"code": "import time; time.sleep(60)"},
            "_meta": {"progressToken": 1},
        },
    },
)

HOST = """
import subprocess, sys
server = subprocess.Popen(sys.argv[2:], stdin=int(sys.argv[1]))
print(server.pid, flush=True)
server.wait()
"""


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_alone_it_runs_code_in_one_default_session(tmp_path: Path, mode: str) -> None:
    async with Client(stdio(tmp_path), mode=mode) as client:
        first = await call(client, "run_code", code="x = 41")
        second = await call(client, "run_code", code="print(x + 1)")

    assert "42" in second
    assert session_of(first) == session_of(second)


async def test_without_the_default_session_every_call_gets_its_own(tmp_path: Path) -> None:
    async with Client(stdio(tmp_path, "--no-default-session")) as client:
        first = await call(client, "run_code", code="x = 41")
        second = await call(client, "run_code", code="x = 41")

    assert session_of(first) != session_of(second)


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_it_joins_a_running_service_and_has_a_default_session_there(
    tmp_path: Path, mode: str
) -> None:
    async with serving(tmp_path), Client(stdio(tmp_path), mode=mode) as client:
        first = await call(client, "run_code", code="x = 41")
        second = await call(client, "run_code", code="print(x + 1)")
        async with Client(stdio(tmp_path), mode=mode) as neighbour:
            other = await call(neighbour, "run_code", code="print('x' in globals())")

    assert "42" in second
    assert session_of(first) == session_of(second)
    assert "False" in other
    assert session_of(other) != session_of(first)


async def test_progress_and_cancellation_pass_the_bridge(tmp_path: Path) -> None:
    seen = anyio.Event()

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.set()

    code = "import time\nfor i in range(1000): print(i, flush=True); time.sleep(0.05)"
    async with serving(tmp_path), Client(stdio(tmp_path)) as client:
        session_id = session_of(await call(client, "run_code", code="x = 1"))
        async with anyio.create_task_group() as tasks:

            async def run_long() -> None:
                arguments = {"code": code, "session_id": session_id}
                await client.call_tool("run_code", arguments, progress_callback=note)

            tasks.start_soon(run_long)
            with anyio.fail_after(20):
                await seen.wait()
            tasks.cancel_scope.cancel()
        with anyio.fail_after(20):
            after = await call(client, "run_code", code="print(x)", session_id=session_id)
        steps = await client.call_tool("list_run_steps", {"session_id": session_id})
    statuses = [step["status"] for step in (steps.structured_content or {})["steps"]]
    assert statuses == ["completed", "cancelled", "completed"]
    assert "restarted" not in after


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_a_host_does_not_notice_a_restart_of_the_service(tmp_path: Path, mode: str) -> None:
    async with serving(tmp_path) as served, Client(stdio(tmp_path), mode=mode) as client:
        session_id = session_of(await call(client, "run_code", code="x = 1"))
        served.process.terminate()
        await wait_until_gone([served.process.pid], reap=served.process)
        with pytest.raises(MCPError, match="ci-tools serve"):
            await client.call_tool("list_sessions", {})
        async with serving(tmp_path):
            sessions = await call(client, "list_sessions")
            text = await call(client, "run_code", code="print(1)", session_id=session_id)

    assert session_id in sessions
    assert "lost" in text  # the fake kernels end with the service that owned them


async def test_a_service_elsewhere_is_joined_by_address_and_token(tmp_path: Path) -> None:
    here = tmp_path / "here"
    async with serving(tmp_path) as served:
        async with Client(
            stdio(here, "--server", f"{served.url}/", CI_TOOLS_TOKEN=served.token)
        ) as client:
            text = await call(client, "run_code", code="print(42)")
        async with connect(served.url, served.token) as remote:
            sessions = await call(remote, "list_sessions")

    assert session_of(text) in sessions
    assert not here.exists()


async def test_a_wrong_token_for_a_service_elsewhere_is_said(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        server = stdio(tmp_path / "here", "--server", served.url, CI_TOOLS_TOKEN="cit_wrong")
        with pytest.RaisesGroup(pytest.RaisesExc(MCPError, match="token"), flatten_subgroups=True):
            async with Client(server, mode="legacy"):
                pass


@pytest.mark.parametrize("arguments", [["--server", "nonsense"], ["--server", "ftp://x"]])
async def test_an_address_that_is_none_is_one_clear_line(
    tmp_path: Path, arguments: list[str]
) -> None:
    code, _, errors = await run(tmp_path, "mcp", *arguments)

    assert code == 1
    assert errors.startswith("ci-tools: --server") and errors.count("\n") == 1


async def test_a_setting_that_cannot_be_is_one_clear_line(tmp_path: Path) -> None:
    code, out, errors = await run(
        tmp_path, "mcp", CI_TOOLS_JUPYTER_URL="secret nonsense", CI_TOOLS_PORT="x"
    )

    assert (code, out) == (1, "")
    assert [line.split(":")[1] for line in errors.splitlines()] == [
        " setting CI_TOOLS_JUPYTER_URL",
        " setting CI_TOOLS_PORT",
    ]
    assert "secret" not in errors


async def test_the_end_of_the_input_ends_everything(tmp_path: Path) -> None:
    code, out, errors = await run(tmp_path, "mcp", input=json.dumps(HELLO).encode() + b"\n")

    assert (code, errors) == (0, "")
    assert json.loads(out)["result"]["serverInfo"]["name"] == "ci-tools"


async def test_the_end_of_the_input_ends_a_joined_host_in_order(tmp_path: Path) -> None:
    async with serving(tmp_path):
        code, _, errors = await run(tmp_path, "mcp", input=json.dumps(HELLO).encode() + b"\n")

    assert (code, errors) == (0, "")


async def test_a_host_that_breaks_off_ends_it_quietly_with_its_steps_settled(
    tmp_path: Path,
) -> None:
    reader, writer = os.pipe()  # the streams of a process keep its pipes open when they are closed
    process = await anyio.open_process(
        [*FAKE, "mcp"], stdin=PIPE, stdout=writer, stderr=PIPE, env=environment(tmp_path)
    )
    os.close(writer)
    async with process:
        assert process.stdin and process.stderr
        pids = await start_a_kernel(process, output=reader)
        os.close(reader)
        # Answers that nobody reads any more; then the rest of the host is gone, too.
        await process.stdin.send(b'{"jsonrpc":"2.0","id":3,"method":"ping"}\n' * 50)
        await process.stdin.aclose()
        log = "".join([chunk async for chunk in TextReceiveStream(process.stderr)])
        await wait_until_gone(pids, reap=process)

    assert process.returncode == 0
    assert "Traceback" not in log
    assert "BrokenPipe" not in log
    assert "the host is gone" in log
    settings = Settings(state_dir=tmp_path / "state")
    async with open_service(settings, backend=FakeBackend(tmp_path / "fake")) as service:
        [session] = await service.list_sessions()
        [step] = await service.list_run_steps(session.id)
    assert step.status.is_final


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_ends_everything_in_order(tmp_path: Path, name: signal.Signals) -> None:
    process = await anyio.open_process(
        [*FAKE, "mcp"], stdin=PIPE, stdout=PIPE, env=environment(tmp_path)
    )
    async with process:
        pids = await start_a_kernel(process)
        process.send_signal(name)
        await wait_until_gone(pids, reap=process)

    assert process.returncode == 0


async def test_a_killed_host_leaves_nothing_even_if_its_pipe_stays_open(tmp_path: Path) -> None:
    """The host's end of the pipe is inherited by another process, so there is no end of input."""
    reader, writer = os.pipe()
    host = await anyio.open_process(
        [sys.executable, "-c", HOST, str(reader), *FAKE, "mcp"],
        stdout=PIPE,
        pass_fds=[reader, writer],
        env=environment(tmp_path),
    )
    os.close(reader)
    try:
        async with host:
            assert host.stdout
            lines = BufferedByteReceiveStream(host.stdout)
            server = int(await lines.receive_until(b"\n", 100))
            await anyio.to_thread.run_sync(os.write, writer, json.dumps(HELLO).encode() + b"\n")
            await lines.receive_until(b"\n", 100_000)
            pids = descendants(server)
            host.kill()
            await wait_until_gone(pids, reap=host)
    finally:
        os.close(writer)


async def start_a_kernel(
    process: Process, *, processes: int = 2, output: int | None = None
) -> list[int]:
    """Say hello, run code that goes on, wait for its kernel, and return all processes."""
    assert process.stdin
    await process.stdin.send(json.dumps(HELLO).encode() + b"\n")
    if output is None:
        assert process.stdout
        await process.stdout.receive()
    else:
        await anyio.to_thread.run_sync(os.read, output, 1_000_000)
    for message in RUN:
        await process.stdin.send(json.dumps(message).encode() + b"\n")
    with anyio.fail_after(30):
        while len(pids := descendants(process.pid)) < processes:
            await anyio.sleep(0.05)
    return pids
