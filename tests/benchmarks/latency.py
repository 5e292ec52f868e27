"""How long `1+1` takes, stored durably, on each way in; and how soon the first output comes."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from time import perf_counter

from mcp import Client
from mcp.types import TextContent

from ci_tools import SessionService, StepOutput, StepStatus, StreamOutput
from tests.benchmarks.measure import Row, Run, interleave, to_row
from tests.benchmarks.ours import (
    embedded_service,
    http_client,
    remote_service,
    scratch_folder,
    stdio_client,
)
from tests.benchmarks.raw import RawKernel, open_raw_kernel

CODE = "1+1"

BLOCK = 25
"""Runs of one side before the other has its turn."""

FIRST_OUTPUT_CODE = "import time; print('now', flush=True); time.sleep(0.1)"


async def run_raw(kernel: RawKernel) -> float:
    """Run the code once on the raw kernel."""
    started = perf_counter()
    kernel.execute(CODE)
    return perf_counter() - started


@asynccontextmanager
async def core_run(
    opened: AbstractAsyncContextManager[SessionService],
) -> AsyncIterator[Run]:
    """Yield a run of the code through `SessionService.run_code`, in one session."""
    async with opened as service:
        session = await service.create_session()

        async def run() -> float:
            started = perf_counter()
            step = await service.run_code(session.id, CODE)
            seconds = perf_counter() - started
            assert step.status is StepStatus.COMPLETED, step.error
            return seconds

        yield run


@asynccontextmanager
async def mcp_run(opened: AbstractAsyncContextManager[Client]) -> AsyncIterator[Run]:
    """Yield a run of the code through the tool `run_code`, in one session."""
    async with opened as client:
        created = await client.call_tool("create_session", {})
        assert created.structured_content is not None
        arguments = {"code": CODE, "session_id": created.structured_content["session_id"]}

        async def run() -> float:
            started = perf_counter()
            result = await client.call_tool("run_code", arguments)
            seconds = perf_counter() - started
            text = "".join(one.text for one in result.content if isinstance(one, TextContent))
            assert not result.is_error and "2" in text, text
            return seconds

        yield run


WAYS: dict[str, Callable[[Path], AbstractAsyncContextManager[Run]]] = {
    "run_code_embedded": lambda folder: core_run(embedded_service(folder)),
    "run_code_remote": lambda folder: core_run(remote_service(folder)),
    "run_code_mcp_stdio": lambda folder: mcp_run(stdio_client(folder)),
    "run_code_mcp_http": lambda folder: mcp_run(http_client(folder)),
}


async def measure_run_code(name: str, *, rounds: int) -> list[Row]:
    """Measure one way in against a raw kernel."""
    with scratch_folder() as folder, open_raw_kernel() as kernel:
        async with WAYS[name](folder) as run:
            ours, raw = await interleave([run, lambda: run_raw(kernel)], rounds=rounds, block=BLOCK)
    return [to_row(name, ours * 1e3, "ms", raw * 1e3)]


async def measure_first_output(name: str, *, rounds: int) -> list[Row]:
    """Measure the time from the call to the first output of code that goes on running."""
    with scratch_folder() as folder, open_raw_kernel() as kernel:
        async with embedded_service(folder) as service:
            session = await service.create_session()

            async def run() -> float:
                started, first = perf_counter(), 0.0
                async with service.stream_code(session.id, FIRST_OUTPUT_CODE) as events:
                    async for event in events:
                        match event:
                            case StepOutput(output=StreamOutput()):
                                first = first or perf_counter() - started
                            case _:
                                pass
                assert first, "no output came"
                return first

            async def run_raw_first() -> float:
                return kernel.execute(FIRST_OUTPUT_CODE)

            ours, raw = await interleave([run, run_raw_first], rounds=rounds, block=5)
    return [to_row(name, ours * 1e3, "ms", raw * 1e3)]


ROWS: dict[str, Callable[..., Awaitable[list[Row]]]] = {
    **dict.fromkeys(WAYS, measure_run_code),
    "first_output": measure_first_output,
}
