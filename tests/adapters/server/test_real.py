"""The whole product at once: real clients, real servers, real kernels."""

import signal
from pathlib import Path

import anyio
import pytest
from mcp import Client

from tests.adapters.server.processes import (
    REAL,
    call,
    descendants,
    environment,
    serving,
    session_of,
    stdio,
    wait_until_gone,
)
from tests.adapters.server.test_serve import connect
from tests.adapters.server.test_stdio import start_a_kernel


async def test_one_live_session_from_a_host_and_over_http_survives_the_host(
    tmp_path: Path,
) -> None:
    async with (
        serving(tmp_path, command=REAL) as served,
        connect(served.url, served.token) as remote,
    ):
        async with Client(stdio(tmp_path, command=REAL)) as host:
            session_id = session_of(await call(host, "run_code", code="x = ['host']"))
            await call(remote, "run_code", code="x.append('remote')", session_id=session_id)
            both = await call(host, "run_code", code="print(x)", session_id=session_id)
            file = {"path": "note.txt", "content": "from the host", "session_id": session_id}
            await call(host, "upload_file", **file)
        async with Client(stdio(tmp_path, command=REAL)) as host:
            code = "print(x, open('/mnt/data/note.txt').read())"
            again = await call(host, "run_code", code=code, session_id=session_id)
        pids = descendants(served.process.pid)
    await wait_until_gone(pids)

    assert "['host', 'remote']" in both
    assert "['host', 'remote'] from the host" in again
    assert "restarted" not in again
    assert len(pids) >= 3  # the service, its Jupyter Server and a kernel


@pytest.mark.parametrize("name", [signal.SIGKILL, signal.SIGTERM])
async def test_a_killed_stdio_server_leaves_no_jupyter_server_and_no_kernel(
    tmp_path: Path, name: signal.Signals
) -> None:
    process = await anyio.open_process(
        [*REAL, "mcp"], stdin=-1, stdout=-1, env=environment(tmp_path)
    )
    async with process:
        pids = await start_a_kernel(process, processes=3)
        process.send_signal(name)
        await wait_until_gone(pids, reap=process)

    assert len(pids) >= 3
