"""How long a stdio server takes from the start of its process to its first MCP answer."""

import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from time import perf_counter

import anyio

from tests.benchmarks.measure import Row, interleave, to_row
from tests.benchmarks.ours import COMMAND, STOP_LIMIT, command_env, scratch_folder

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "bench", "version": "0"},
    },
}

SETTLE = 1.0
"""Seconds between two starts, so that what one leaves to clean up does not slow the next."""


def start_once(command: Sequence[str], env: dict[str, str]) -> float:
    """Start a server, ask it to initialize; return the seconds to its answer, then end it."""
    started = perf_counter()
    with subprocess.Popen(
        command,
        env={**os.environ, **env},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(INITIALIZE).encode() + b"\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        seconds = perf_counter() - started
        assert answer["id"] == 1 and "result" in answer, answer
        process.stdin.close()
        try:
            process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return seconds


async def measure_start(name: str, *, rounds: int) -> list[Row]:
    """Measure `ci-tools mcp` against a bare server of the `mcp` package."""
    bare = [sys.executable, str(Path(__file__).with_name("bare_server.py"))]
    with scratch_folder() as folder:

        async def run(command: Sequence[str]) -> float:
            await anyio.sleep(SETTLE)
            return await anyio.to_thread.run_sync(start_once, command, command_env(folder))

        ours, raw = await interleave(
            [lambda: run([COMMAND, "mcp"]), lambda: run(bare)], rounds=rounds
        )
    return [to_row(name, ours * 1e3, "ms", raw * 1e3)]


ROWS: dict[str, Callable[..., Awaitable[list[Row]]]] = {"mcp_stdio_start": measure_start}
