"""Connections, kernels and servers that break."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import anyio
import httpx2
import pytest

import ci_tools_jupyter.kernel
from ci_tools.errors import (
    KernelDiedError,
    KernelLostError,
    ServerDeniedError,
    ServerUnavailableError,
)
from ci_tools.kernel import Kernel, KernelRequest, OutputLost
from ci_tools.models import KernelRef
from ci_tools.settings import JupyterServerProfile
from ci_tools_jupyter import JupyterBackend
from tests.kernels.rig import (
    DEADLINE,
    TOKEN,
    Relay,
    ServerProcess,
    follow,
    jupyter_server,
    relay,
    run,
    wait_for_text,
)

COUNT = (
    "import time\nfor i in range(40):\n    print(i, flush=True)\n    time.sleep(0.02)\n'finished'"
)
COUNTED = "".join(f"{i}\n" for i in range(40))


async def start(backend: JupyterBackend, server: str) -> KernelRef:
    return await backend.start_kernel(
        KernelRequest(session_id=f"sess_{uuid4().hex}", server=server, kernelspec="", epoch=1)
    )


@asynccontextmanager
async def connected(backend: JupyterBackend, server: str) -> AsyncIterator[Kernel]:
    ref = await start(backend, server)
    try:
        async with backend.connect(ref) as kernel:
            yield kernel
    finally:
        await backend.stop_kernel(ref)


@pytest.fixture
async def link(stock_server: ServerProcess) -> AsyncIterator[Relay]:
    """What stands between us and the stock server."""
    async with relay(stock_server.port) as link:
        yield link


@pytest.fixture
async def backend(
    tmp_path: Path, stock_server: ServerProcess, link: Relay
) -> AsyncIterator[JupyterBackend]:
    """A backend that reaches the stock server as `near` and, over the relay, as `far`."""
    remotes = {
        "near": stock_server.to_profile(),
        "far": stock_server.to_profile(port=link.port),
    }
    backend = JupyterBackend(state_dir=tmp_path / "state", remotes=remotes)
    async with backend.open():
        yield backend


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A stock server that a test may kill."""
    root = tmp_path / "server"
    root.mkdir()
    with jupyter_server(root) as server:
        yield server


async def get_kernel_state(server: ServerProcess, kernel: Kernel) -> str:
    async with httpx2.AsyncClient(headers={"Authorization": f"token {TOKEN}"}) as http:
        response = await http.get(f"{server.url}api/kernels/{kernel.ref.kernel_id}")
        return str(response.json()["execution_state"])


async def wait_until_idle(server: ServerProcess, kernel: Kernel) -> None:
    with anyio.fail_after(DEADLINE):
        while await get_kernel_state(server, kernel) != "idle":
            await anyio.sleep(0.05)


# --- the connection


async def test_a_connection_that_drops_while_code_runs_loses_nothing(
    backend: JupyterBackend, link: Relay
) -> None:
    async with connected(backend, "far") as kernel:
        execution = await kernel.execute(COUNT, execution_id=uuid4().hex)
        seen = await wait_for_text(execution, "3\n")
        await link.cut()
        seen += await wait_for_text(execution, "20\n")
        await link.cut()
        outcome = await follow(execution)

    assert seen + outcome.text() == COUNTED
    assert outcome.result == "'finished'"
    assert outcome.done.status == "ok"


async def test_what_ended_while_the_connection_was_away_is_delivered(
    backend: JupyterBackend, link: Relay, stock_server: ServerProcess
) -> None:
    async with connected(backend, "far") as kernel:
        execution = await kernel.execute(COUNT, execution_id=uuid4().hex)
        seen = await wait_for_text(execution, "3\n")
        link.accepting = False
        await link.cut()
        await wait_until_idle(stock_server, kernel)
        link.accepting = True
        outcome = await follow(execution)

    assert seen + outcome.text() == COUNTED
    assert outcome.result == "'finished'"
    assert outcome.done.status == "ok"


async def test_a_connection_that_drops_between_executions_is_opened_again(
    backend: JupyterBackend, link: Relay
) -> None:
    async with connected(backend, "far") as kernel:
        await run(kernel, "x = 1")
        for _ in range(3):
            await link.cut()
            await anyio.wait_all_tasks_blocked()
            outcome = await run(kernel, "x += 1\nx")

    assert outcome.result == "4"


async def test_a_reply_that_nobody_kept_is_unknown_and_said(
    backend: JupyterBackend, link: Relay, stock_server: ServerProcess
) -> None:
    async with connected(backend, "far") as kernel:
        signature = kernel.ref.channel_id.partition(".")[2]
        other = replace(kernel.ref, server="near", channel_id=f"{uuid4().hex}.{signature}")
        # While somebody else is connected, the server keeps nothing for those who are away.
        async with backend.connect(other):
            execution = await kernel.execute(COUNT, execution_id=uuid4().hex)
            await wait_for_text(execution, "3\n")
            link.accepting = False
            await link.cut()
            await wait_until_idle(stock_server, kernel)
            link.accepting = True
            outcome = await follow(execution)
            after = await run(kernel, "i")

    assert outcome.done.status == "unknown"
    assert any(isinstance(event, OutputLost) for event in outcome.events)
    assert after.result == "39"


async def test_output_that_a_server_drops_is_said_to_be_lost(backend: JupyterBackend) -> None:
    async with connected(backend, "near") as kernel:
        outcome = await run(kernel, "print('x' * 10_000_000)")

    assert sum(isinstance(event, OutputLost) for event in outcome.events) == 1
    assert len(outcome.text()) < 10_000_000
    assert outcome.text("stderr") == ""
    assert outcome.done.status == "ok"


# --- the kernel


@pytest.mark.parametrize("server", ["embedded", "near"])
async def test_a_kernel_that_is_killed_has_died(backend: JupyterBackend, server: str) -> None:
    async with connected(backend, server) as kernel:
        execution = await kernel.execute(
            "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\nwhile True: pass",
            execution_id=uuid4().hex,
        )

        with pytest.raises(KernelDiedError):
            await follow(execution)


async def test_a_restarted_kernel_is_not_taken_for_the_old_one(
    backend: JupyterBackend, stock_server: ServerProcess
) -> None:
    ref = await start(backend, "near")
    async with backend.connect(ref) as kernel:
        await run(kernel, "x = 1")
    headers = {"Authorization": f"token {TOKEN}"}
    async with httpx2.AsyncClient(headers=headers, timeout=30) as http:
        url = f"{stock_server.url}api/kernels/{ref.kernel_id}/restart"
        (await http.post(url)).raise_for_status()

    with pytest.raises(KernelLostError):
        async with backend.connect(ref):
            pass
    await backend.stop_kernel(ref)


async def test_a_kernel_that_somebody_restarts_has_died(
    backend: JupyterBackend, stock_server: ServerProcess
) -> None:
    async with connected(backend, "near") as kernel:
        execution = await kernel.execute(
            "print('busy', flush=True)\nwhile True: pass", execution_id=uuid4().hex
        )
        await wait_for_text(execution, "busy")
        headers = {"Authorization": f"token {TOKEN}"}
        async with httpx2.AsyncClient(headers=headers, timeout=30) as http:
            url = f"{stock_server.url}api/kernels/{kernel.ref.kernel_id}/restart"
            (await http.post(url)).raise_for_status()

        with pytest.raises(KernelDiedError):
            await follow(execution)
        with pytest.raises(KernelLostError):
            await kernel.execute("1", execution_id=uuid4().hex)


# --- the server


async def test_a_server_that_starts_anew_has_lost_its_kernels_and_one_that_stays_away_all(
    tmp_path: Path, own_server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ci_tools_jupyter.kernel, "PATIENCE", 60.0)  # a loaded machine starts slowly
    busy_code = "print('busy', flush=True)\nwhile True: pass"
    backend = JupyterBackend(state_dir=tmp_path, remotes={"own": own_server.to_profile()})
    async with backend.open():
        ref, idle_ref = await start(backend, "own"), await start(backend, "own")
        async with backend.connect(ref) as kernel, backend.connect(idle_ref) as idle:
            execution = await kernel.execute(busy_code, execution_id=uuid4().hex)
            await wait_for_text(execution, "busy")
            own_server.kill()
            await anyio.to_thread.run_sync(own_server.start)

            with pytest.raises(KernelDiedError):
                await follow(execution)
            with pytest.raises(KernelLostError):
                await idle.execute("1", execution_id=uuid4().hex)

        monkeypatch.setattr(ci_tools_jupyter.kernel, "PATIENCE", 1.0)
        async with backend.connect(await start(backend, "own")) as kernel:
            execution = await kernel.execute(busy_code, execution_id=uuid4().hex)
            await wait_for_text(execution, "busy")
            own_server.kill()

            with pytest.raises(ServerUnavailableError):
                await follow(execution)
            with pytest.raises(ServerUnavailableError):
                await kernel.execute("1", execution_id=uuid4().hex)
        with pytest.raises(ServerUnavailableError):
            await start(backend, "own")


async def test_a_wrong_token_is_denied(tmp_path: Path, stock_server: ServerProcess) -> None:
    profile = JupyterServerProfile.model_validate({"url": stock_server.url, "token": "wrong"})
    backend = JupyterBackend(state_dir=tmp_path, remotes={"own": profile})
    async with backend.open():
        with pytest.raises(ServerDeniedError):
            await backend.list_kernelspecs("own")
        with pytest.raises(ServerDeniedError):
            await start(backend, "own")


@pytest.mark.parametrize("status", ["302 Found", "404 Not Found", "424 Failed", "503 Busy"])
async def test_a_hub_without_the_server_is_a_server_that_does_not_run(
    tmp_path: Path, status: str
) -> None:
    async def answer(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(
                f"HTTP/1.1 {status}\r\nLocation: http://127.0.0.1:1/stolen\r\n"
                "Content-Type: text/html\r\nContent-Length: 0\r\n\r\n".encode()
            )

    listeners = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listeners.extra(anyio.abc.SocketAttribute.local_port)
    profile = {"url": f"http://127.0.0.1:{port}/user/ada/", "token": "x"}
    backend = JupyterBackend(
        state_dir=tmp_path,
        remotes={"hub": JupyterServerProfile.model_validate(profile)},
    )
    ref = KernelRef(
        server="hub", kernel_id="k", channel_id="c.s", kernelspec="python3", language="python"
    )
    async with listeners, anyio.create_task_group() as tasks, backend.open():
        tasks.start_soon(listeners.serve, answer)
        with pytest.raises(ServerUnavailableError):
            await backend.list_kernelspecs("hub")
        with pytest.raises(ServerUnavailableError):
            await backend.stop_kernel(ref)
        tasks.cancel_scope.cancel()
