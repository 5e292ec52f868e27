"""How much the Assistants API adds to model and kernel, and how it bears many runs and messages."""

import json
import re
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import anyio

from ci_tools import LOCAL
from ci_tools.models import new_id
from ci_tools_assistants.objects import Kind, Object
from ci_tools_assistants.storage.records import Write, open_records
from tests.benchmarks.instant_model import BEAT, CODE, TEXTS
from tests.benchmarks.measure import Row, interleave, timed, to_row
from tests.benchmarks.ours import (
    COMMAND,
    child_process,
    command_env,
    embedded_service,
    free_port,
    scratch_folder,
    wait_for_http,
)
from tests.benchmarks.raw import open_raw_kernel
from tests.benchmarks.wire import Wire, open_wire

MODELS = json.dumps({"default": {"use": "tests.benchmarks.instant_model:create_model"}})

RUNS = 100
"""Runs that stream side by side."""

CALLERS = 8
"""Connections that ask for threads side by side."""

CALLS = 100
"""Requests of each of them in one turn."""

FEW, MANY = 100, 100_000
"""Messages of the two threads whose first pages are compared."""

_SENT = re.compile(rb'"value": ?" (\d{10,})"')


@asynccontextmanager
async def served_api(folder: Path) -> AsyncIterator[int]:
    """Run `ci-tools serve` with the instant model; yields its port."""
    port = free_port()
    env = {
        **command_env(folder),
        "CI_TOOLS_PORT": str(port),
        "CI_TOOLS_AUTH": "none",
        "CI_TOOLS_MODELS": MODELS,
    }
    with child_process(COMMAND, "serve", env=env) as process:
        await wait_for_http(f"http://127.0.0.1:{port}/readyz", process)
        yield port


async def create_assistant(wire: Wire) -> str:
    """Return the id of an assistant that may run code."""
    body = {"model": "instant", "tools": [{"type": "code_interpreter"}]}
    return str((await wire.call("POST", "/v1/assistants", body))["id"])


async def create_run(wire: Wire, text: str) -> bytes:
    """Return the request for a streamed run on a new thread with one message."""
    assistant_id = await create_assistant(wire)
    message = {"role": "user", "content": text}
    thread = await wire.call("POST", "/v1/threads", {"messages": [message]})
    body = {"assistant_id": assistant_id, "stream": True}
    return wire.to_request("POST", f"/v1/threads/{thread['id']}/runs", body)


async def stream_run(wire: Wire, request: bytes) -> list[tuple[float, bytes]]:
    """Stream a run to its end; return its blocks with the time of their arrival."""
    blocks = [(time.monotonic(), block) async for block in wire.stream(request)]
    assert b"event: thread.run.completed" in b"".join(block for _, block in blocks), blocks[-1]
    return blocks


async def measure_run(name: str, *, rounds: int) -> list[Row]:
    """Measure a run with one call of code, without what a raw kernel needs for that code."""
    with scratch_folder() as folder, open_raw_kernel() as kernel:
        async with served_api(folder) as port, open_wire(port) as wire:
            request = await create_run(wire, "compute")

            async def run() -> float:
                started = perf_counter()
                blocks = await stream_run(wire, request)
                seconds = perf_counter() - started
                assert b'"logs":"2"' in b"".join(block for _, block in blocks).replace(b" ", b"")
                return seconds

            async def run_raw() -> float:
                started = perf_counter()
                kernel.execute(CODE)
                return perf_counter() - started

            ours, raw = await interleave([run, run_raw], rounds=rounds, block=3)
    return [to_row(name, (ours - raw) * 1e3, "ms")]


async def measure_first_delta(name: str, *, rounds: int) -> list[Row]:
    """Measure from the model's first token to the first delta at the client."""
    with scratch_folder() as folder:
        async with served_api(folder) as port, open_wire(port) as wire:
            request = await create_run(wire, "Hello")

            async def run() -> float:
                for at, block in await stream_run(wire, request):
                    if sent := _SENT.search(block):
                        return at - int(sent[1]) / 1e9
                raise AssertionError("no delta came")

            [seconds] = await interleave([run], rounds=rounds, block=3)
    return [to_row(name, seconds * 1e3, "ms")]


async def measure_many_runs(name: str, *, rounds: int) -> list[Row]:
    """Measure what runs that stream side by side take longer than their model speaks."""
    added: list[float] = []
    errors = 0
    spoken = (TEXTS - 1) * BEAT

    async def run_one(wire: Wire, request: bytes) -> None:
        nonlocal errors
        started = perf_counter()
        try:
            await stream_run(wire, request)
            added.append(perf_counter() - started - spoken)
        except (AssertionError, OSError, anyio.EndOfStream):
            errors += 1

    with scratch_folder() as folder:
        async with served_api(folder) as port:
            async with open_wire(port) as wire:
                requests = [await create_run(wire, "talk") for _ in range(RUNS)]
            for number in range(rounds + 1):
                if number == 1:
                    added.clear()  # the first turn loads what is loaded on first use
                async with AsyncExitStack() as stack:
                    # New ones each time: the server closes those that are quiet for some seconds.
                    wires = [await stack.enter_async_context(open_wire(port)) for _ in requests]
                    async with anyio.create_task_group() as tasks:
                        for wire, request in zip(wires, requests, strict=True):
                            tasks.start_soon(run_one, wire, request)
    slowest = float(statistics.quantiles(added, n=100)[98])
    return [
        to_row(name, slowest * 1e3, "ms"),
        to_row("runs_100_errors", errors, "runs"),
    ]


async def measure_crud(name: str, *, rounds: int) -> list[Row]:
    """Measure creating and reading threads against a bare FastAPI app that does just that."""
    with scratch_folder() as folder:
        bare = free_port()
        command = ("-m", "tests.benchmarks.bare_api", str(folder / "bare.db"), str(bare))
        async with served_api(folder) as port, AsyncExitStack() as stack:
            process = stack.enter_context(child_process(sys.executable, *command))
            await wait_for_http(f"http://127.0.0.1:{bare}/readyz", process)
            sides = []
            for one in (port, bare):
                wires = [await stack.enter_async_context(open_wire(one)) for _ in range(CALLERS)]
                sides.append(partial(call_threads, wires))
            ours, raw = await interleave(sides, rounds=rounds)
    return [to_row(name, ours, "1/s", raw)]


async def call_threads(wires: Sequence[Wire]) -> float:
    """Create and read threads over several connections; return requests per second."""

    async def call(wire: Wire) -> None:
        create = wire.to_request("POST", "/v1/threads", {"metadata": {"user": "ada"}})
        for _ in range(CALLS // 2):
            made = json.loads(await wire.send(create))
            await wire.send(wire.to_request("GET", f"/v1/threads/{made['id']}"))

    started = perf_counter()
    async with anyio.create_task_group() as tasks:
        for wire in wires:
            tasks.start_soon(call, wire)
    return len(wires) * CALLS / (perf_counter() - started)


async def measure_long_thread(name: str, *, rounds: int) -> list[Row]:
    """Measure the first page of a thread with very many messages against one with few."""
    with scratch_folder() as folder:
        async with embedded_service(folder) as service:
            records = await open_records(service.database)
            threads = [await fill_thread(records, count) for count in (MANY, FEW)]
        async with served_api(folder) as port, open_wire(port) as wire:
            pages = [wire.to_request("GET", f"/v1/threads/{id}/messages") for id in threads]

            async def read_page(request: bytes) -> float:
                return await timed(lambda: wire.send(request))

            many, few = await interleave(
                [partial(read_page, page) for page in pages], rounds=rounds, block=20
            )
    return [to_row(name, many * 1e3, "ms", few * 1e3)]


async def fill_thread(records: Any, count: int) -> str:
    """Store a thread with that many messages; return its id."""
    thread: Object = {
        "id": new_id("thread_"),
        "object": "thread",
        "created_at": int(time.time()),
        "metadata": {},
        "tool_resources": {},
    }
    await records.add_thread(thread, [], principal=LOCAL)
    for start in range(0, count, 1000):
        writes = [
            Write(Kind.MESSAGE, to_message(thread["id"], number), thread["id"])
            for number in range(start, min(start + 1000, count))
        ]
        await records.save(writes, principal=LOCAL)
    return str(thread["id"])


def to_message(thread_id: str, number: int) -> Object:
    """Return a message as it is stored."""
    text = {"value": f"This is message {number}.", "annotations": []}
    return {
        "id": new_id("msg_"),
        "object": "thread.message",
        "created_at": int(time.time()),
        "thread_id": thread_id,
        "status": "completed",
        "incomplete_details": None,
        "completed_at": int(time.time()),
        "incomplete_at": None,
        "role": "user",
        "content": [{"type": "text", "text": text}],
        "assistant_id": None,
        "run_id": None,
        "attachments": [],
        "metadata": {},
    }


ROWS: dict[str, Callable[..., Awaitable[list[Row]]]] = {
    "run_overhead": measure_run,
    "first_delta": measure_first_delta,
    "runs_100": measure_many_runs,
    "crud_rps": measure_crud,
    "list_100k": measure_long_thread,
}
