"""How sandboxed kernels compare with stock ones: start, bursts, memory and running code.

Both kinds run on the same Jupyter Server, set up as the embedded one is: on a unix socket, with
its kernel managers and a connection without the half-second wait, stock kernels over ipc as well.
"""

import json
import secrets
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TypeAlias
from uuid import uuid4

import anyio
import anyio.to_thread

from ci_tools.errors import ServerUnavailableError
from ci_tools_jupyter.channels import Channels, open_channels
from ci_tools_jupyter.server import JupyterServer, ServerAddress
from ci_tools_jupyter.wire import decode, encode, to_execute_request
from ci_tools_kernels import Policy, write_kernelspec
from ci_tools_kernels.usage import list_processes, measure_memory
from tests.benchmarks.latency import BLOCK, run_raw
from tests.benchmarks.measure import Row, interleave, timed, to_row
from tests.benchmarks.ours import child_process, scratch_folder
from tests.benchmarks.raw import open_raw_kernel

IMPORTS = "import numpy, pandas, matplotlib.pyplot as plt\n1+1"
"""What a session must have done to count as started."""

STOCK, PLAIN, SANDBOXED, POOLED = "stock", "plain", "sandboxed", "pooled"
"""Kernelspecs. A plain kernel is a stock one that keeps no history, as the sandboxed ones."""

START_LIMIT = 60.0
"""Seconds that anything may take."""

SETTLE = 1.0
"""Seconds between two measurements, for what the last one leaves to clean up."""

CROWD = 16
"""Sessions side by side."""

POOL = 2
"""Kernels that are kept ready."""

GIGABYTE = 1 << 30

StartKernel: TypeAlias = Callable[[], Awaitable[object]]


class BenchKernel:
    """A kernel of the server and the connection to its channels."""

    def __init__(self, server: JupyterServer, id: str, channels: Channels) -> None:
        self._server = server
        self._id = id
        self._channels = channels

    async def run(self, code: str) -> None:
        """Run code until its reply and its idle status are here.

        Raises:
            RuntimeError: It failed.
        """
        request = to_execute_request(code, id=uuid4().hex, sender="bench")
        await self._channels.send(encode(request, self._channels.subprotocol))
        replied = idle = False
        with anyio.fail_after(START_LIMIT):
            while not (replied and idle):
                frame = decode(await self._channels.recv(), self._channels.subprotocol)
                if frame.parent_id != request.id:
                    continue
                message = frame.to_message()
                if message.type == "execute_reply":
                    replied = True
                    if message.content["status"] != "ok":
                        raise RuntimeError(f"The code failed: {message.content}")
                elif message.type == "status":
                    idle = message.content["execution_state"] == "idle"

    async def aclose(self) -> None:
        """Disconnect, and end the kernel."""
        await self._channels.close()
        await self._server.stop_kernel(self._id)


class BenchServer:
    """A Jupyter Server with stock and sandboxed kernels."""

    def __init__(self, server: JupyterServer, pid: int) -> None:
        self._server = server
        self.pid = pid

    async def answers(self) -> bool:
        """Tell whether it is up."""
        try:
            return (await self._server.request("GET", "api")).is_success
        except ServerUnavailableError:
            return False

    async def start(self, name: str, code: str) -> BenchKernel:
        """Start a kernel and run its first code."""
        kernel_id = await self._server.start_kernel(name, "session")
        channels = await open_channels(self._server, kernel_id, uuid4().hex, timeout=START_LIMIT)
        kernel = BenchKernel(self._server, kernel_id, channels)
        await kernel.run(code)
        return kernel

    async def start_many(self, name: str, number: int) -> list[BenchKernel]:
        """Start kernels side by side."""
        kernels: list[BenchKernel] = []

        async def start() -> None:
            kernels.append(await self.start(name, IMPORTS))

        async with anyio.create_task_group() as group:
            for _ in range(number):
                group.start_soon(start)
        return kernels


async def close_all(kernels: Iterable[BenchKernel]) -> None:
    """End kernels side by side, and let the machine settle."""
    async with anyio.create_task_group() as group:
        for kernel in kernels:
            group.start_soon(kernel.aclose)
    await anyio.sleep(SETTLE)


def write_kernelspecs(folder: Path, names: Iterable[str]) -> None:
    """Write kernelspecs, all of this interpreter."""
    for name in names:
        if name in (SANDBOXED, POOLED):
            policy = Policy(pool=POOL if name == POOLED else 0)
            write_kernelspec(folder, python=sys.executable, name=name, policy=policy)
            continue
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        if name == PLAIN:
            argv.append("--HistoryManager.enabled=False")
        (folder / name).mkdir(parents=True)
        spec = {"argv": argv, "display_name": name, "language": "python"}
        (folder / name / "kernel.json").write_text(json.dumps(spec))


@asynccontextmanager
async def kernel_server(folder: Path, *names: str) -> AsyncIterator[BenchServer]:
    """Run a server with these kernelspecs; it is ready, its template and pool included."""
    write_kernelspecs(folder / "share" / "kernels", names)
    (folder / "root" / "session").mkdir(parents=True)
    socket, token = folder / "s", secrets.token_hex(16)
    command = (
        *(sys.executable, "-m", "jupyter_server", "--allow-root", f"--ServerApp.sock={socket}"),
        *(f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder / 'root'}"),
        "--ServerApp.jpserver_extensions={'ci_tools_kernels.extension': True}",
        "--ServerApp.kernel_manager_class=ci_tools_jupyter.embedded_app.QuickKernels",
        "--AsyncMappingKernelManager.kernel_manager_class="
        "ci_tools_kernels.starts.PromptKernelManager",
        "--KernelManager.transport=ipc",
        "--ServerApp.log_level=ERROR",
    )
    env = {
        "JUPYTER_PATH": str(folder / "share"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "PYTHONDONTWRITEBYTECODE": "",
    }
    address = ServerAddress(
        name="The server", url="http://localhost/", token=token, socket_path=str(socket)
    )
    with child_process(*command, env=env, cwd=folder) as process:
        server = JupyterServer(address)
        try:
            bench = BenchServer(server, process.pid)
            with anyio.fail_after(START_LIMIT):
                while not await bench.answers():
                    assert process.poll() is None, "the server ended"
                    await anyio.sleep(0.05)
            # Whoever is first waits for a template; that is not what a session takes.
            for name in names:
                await (await bench.start(name, IMPORTS)).aclose()
            await anyio.sleep(SETTLE)
            yield bench
        finally:
            await server.aclose()


async def measure_start(name: str, *, rounds: int) -> list[Row]:
    """Measure from the request for a session to the first reply, with the data stack imported."""
    with scratch_folder() as folder:
        async with kernel_server(folder, SANDBOXED, STOCK) as server:

            async def run(kind: str) -> float:
                started = perf_counter()
                kernel = await server.start(kind, IMPORTS)
                seconds = perf_counter() - started
                await close_all([kernel])
                return seconds

            ours, stock = await interleave(
                [lambda: run(SANDBOXED), lambda: run(STOCK)], rounds=rounds
            )
    return [to_row(name, ours * 1e3, "ms", stock * 1e3)]


async def measure_burst(name: str, *, rounds: int) -> list[Row]:
    """Measure how long many sessions that are asked for at once take together."""
    with scratch_folder() as folder:
        async with kernel_server(folder, SANDBOXED, STOCK) as server:

            async def run(kind: str) -> float:
                started = perf_counter()
                kernels = await server.start_many(kind, CROWD)
                seconds = perf_counter() - started
                await close_all(kernels)
                return seconds

            ours, stock = await interleave(
                [lambda: run(SANDBOXED), lambda: run(STOCK)], rounds=rounds
            )
    return [to_row(name, ours * 1e3, "ms", stock * 1e3)]


async def measure_large_burst(name: str, *, rounds: int) -> list[Row]:
    """Measure a burst of 50 sandboxed sessions; one that fails fails the row."""
    with scratch_folder() as folder:
        async with kernel_server(folder, SANDBOXED) as server:
            seconds = []
            for _ in range(rounds):
                started = perf_counter()
                kernels = await server.start_many(SANDBOXED, 50)
                seconds.append(perf_counter() - started)
                await close_all(kernels)
    return [to_row(name, max(seconds) * 1e3, "ms")]


async def measure_from_pool(name: str, *, rounds: int) -> list[Row]:
    """Measure from the request to the first result, with a kernel of the pool, against ZMQ."""
    with scratch_folder() as folder, open_raw_kernel() as raw_kernel:
        async with kernel_server(folder, POOLED) as server:

            async def run() -> float:
                started = perf_counter()
                kernel = await server.start(POOLED, "1+1")
                seconds = perf_counter() - started
                await kernel.aclose()
                await anyio.sleep(SETTLE)  # the pool is filled again
                return seconds

            async def run_raw_often() -> float:
                return median([await run_raw(raw_kernel) for _ in range(BLOCK)])

            ours, raw = await interleave([run, run_raw_often], rounds=rounds)
    return [to_row(name, ours * 1e3, "ms", raw * 1e3)]


async def measure_density(name: str, *, rounds: int) -> list[Row]:
    """Measure how many idle sessions a gigabyte holds, by proportional set size.

    All processes below the server count, and so the template that sandboxed sessions share.
    """

    async def run(kind: str) -> float:
        with scratch_folder() as folder:
            async with kernel_server(folder, kind) as server:
                kernels = await server.start_many(kind, CROWD)
                await anyio.sleep(SETTLE)
                size = await anyio.to_thread.run_sync(measure_children, server.pid)
                await close_all(kernels)
        return CROWD * GIGABYTE / size

    pairs = [(await run(SANDBOXED), await run(STOCK)) for _ in range(rounds)]
    return [to_row(name, median(ours for ours, _ in pairs), "1/GB", median(s for _, s in pairs))]


def measure_children(pid: int) -> int:
    """Return the proportional set size of all processes below one, in bytes."""
    return measure_memory(list_processes(pid)[1:])


async def measure_running(name: str, *, rounds: int) -> list[Row]:
    """Measure the round trip of `1+1` in a sandboxed kernel and in a stock one."""
    with scratch_folder() as folder:
        async with kernel_server(folder, SANDBOXED, PLAIN) as server:
            kernels = [await server.start(kind, IMPORTS) for kind in (SANDBOXED, PLAIN)]

            def to_run(kernel: BenchKernel) -> Callable[[], Awaitable[float]]:
                return lambda: timed(lambda: kernel.run("1+1"))

            ours, plain = await interleave(
                [to_run(kernel) for kernel in kernels], rounds=rounds, block=BLOCK
            )
            await close_all(kernels)
    return [to_row(name, ours * 1e3, "ms", plain * 1e3)]


ROWS: dict[str, Callable[..., Awaitable[list[Row]]]] = {
    "session_start": measure_start,
    "session_burst_16": measure_burst,
    "session_burst_50": measure_large_burst,
    "session_from_pool": measure_from_pool,
    "sessions_per_gb": measure_density,
    "run_code_sandboxed": measure_running,
}
