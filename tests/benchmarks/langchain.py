"""LangChain's tools against the service that they call, and what importing them takes."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from time import perf_counter

import anyio

from ci_tools import Settings
from langchain_ci_tools import CodeInterpreterToolkit
from tests.benchmarks.latency import BLOCK, CODE, core_run
from tests.benchmarks.measure import Row, Run, interleave, to_row
from tests.benchmarks.ours import MANY, embedded_service, scratch_folder, serving

IMPORT_OURS = "from langchain_ci_tools import CodeInterpreterToolkit"

IMPORT_THEIRS = "from langchain_core.tools import BaseTool"
"""Not only the package, which is a shell that loads its modules when their names are used."""


@asynccontextmanager
async def local_toolkit(folder: Path) -> AsyncIterator[CodeInterpreterToolkit]:
    """Open a toolkit over a service in this process, on its own embedded server."""
    settings = Settings(
        state_dir=folder / "local", requests_per_minute=MANY, kernel_python=Path(sys.executable)
    )
    async with CodeInterpreterToolkit.local(settings) as toolkit:
        yield toolkit


@asynccontextmanager
async def remote_toolkit(folder: Path) -> AsyncIterator[CodeInterpreterToolkit]:
    """Open a toolkit over a running `ci-tools serve`."""
    async with serving(folder / "serve") as (url, token):
        async with CodeInterpreterToolkit.connect(url, token) as toolkit:
            yield toolkit


OPENERS: dict[str, Callable[[Path], AbstractAsyncContextManager[CodeInterpreterToolkit]]] = {
    "langchain_local": local_toolkit,
    "langchain_remote": remote_toolkit,
}


async def measure_call(name: str, *, rounds: int) -> list[Row]:
    """Measure a call of the tool, as an agent makes it, against `SessionService.run_code`."""
    call = {"name": "run_code", "args": {"code": CODE}, "id": "call_1", "type": "tool_call"}
    with scratch_folder() as folder:
        async with (
            OPENERS[name](folder) as toolkit,
            core_run(embedded_service(folder)) as run_core,
        ):
            [run_code] = toolkit.get_tools("run_code")

            async def run() -> float:
                started = perf_counter()
                message = await run_code.ainvoke(call)
                seconds = perf_counter() - started
                assert message.content == "2", message
                return seconds

            ours, core = await interleave([run, run_core], rounds=rounds, block=BLOCK)
    return [to_row(name, ours * 1e3, "ms", core * 1e3)]


async def measure_import(name: str, *, rounds: int) -> list[Row]:
    """Measure a new process that imports our toolkit against one that imports LangChain's tools."""

    def to_run(code: str) -> Run:
        # In the process: what Python itself takes to start is not the question.
        program = f"import time; t = time.perf_counter(); {code}; print(time.perf_counter() - t)"

        async def run() -> float:
            done = await anyio.run_process(
                [sys.executable, "-c", program], stderr=subprocess.DEVNULL, env=dict(os.environ)
            )
            return float(done.stdout)

        return run

    ours, theirs = await interleave([to_run(IMPORT_OURS), to_run(IMPORT_THEIRS)], rounds=rounds)
    return [to_row(name, ours * 1e3, "ms", theirs * 1e3)]


ROWS: dict[str, Callable[..., Awaitable[list[Row]]]] = {
    **dict.fromkeys(OPENERS, measure_call),
    "langchain_import": measure_import,
}
