"""The other side of the comparison: our service in this process, and our commands as children."""

import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import anyio
import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from ci_tools import SessionService, Settings, open_service

START_LIMIT = 60.0
"""Seconds that a server may take to answer first."""

STOP_LIMIT = 30.0
"""Seconds that a server may take to end."""

MANY = 10_000_000
"""Calls per minute: measurements must not meet the limit that stops runaway clients."""

COMMAND = str(Path(sys.executable).parent / "ci-tools")


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Make a folder for one measurement, with a short path (it holds unix sockets)."""
    with tempfile.TemporaryDirectory(prefix="ci-bench-") as name:
        yield Path(name).resolve()


def free_port() -> int:
    """Return a loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def child_process(
    *command: str, env: dict[str, str] | None = None, cwd: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command beside the measurement, quietly; it is ended with the block."""
    with subprocess.Popen(
        command,
        env={**os.environ, **(env or {})},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(STOP_LIMIT)
            except subprocess.TimeoutExpired:
                process.kill()


async def wait_for_http(url: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until a GET of `url` succeeds.

    Raises:
        RuntimeError: The process ended first.
        TimeoutError: It took too long.
    """
    with anyio.fail_after(START_LIMIT):
        async with httpx2.AsyncClient() as client:
            while True:
                if process.poll() is not None:
                    raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
                try:
                    if (await client.get(url)).is_success:
                        return
                except httpx2.TransportError:
                    pass
                await anyio.sleep(0.05)


@asynccontextmanager
async def stock_server(folder: Path) -> AsyncIterator[tuple[str, str]]:
    """Run a Jupyter Server with its own defaults on loopback TCP; yields its URL and token."""
    token, port = secrets.token_hex(16), free_port()
    root = folder / "remote"
    root.mkdir()
    command = (
        *(sys.executable, "-m", "jupyter_server", "--no-browser", "--allow-root"),
        *(f"--ServerApp.port={port}", "--ServerApp.port_retries=0", "--ServerApp.ip=127.0.0.1"),
        *(f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={root}"),
    )
    url = f"http://127.0.0.1:{port}/"
    with child_process(*command, cwd=root) as process:
        await wait_for_http(f"{url}api?token={token}", process)
        yield url, token


@asynccontextmanager
async def embedded_service(folder: Path) -> AsyncIterator[SessionService]:
    """Open the service in this process, on its own embedded server."""
    settings = Settings(
        state_dir=folder / "state",
        requests_per_minute=MANY,
        kernel_python=Path(sys.executable),  # no environment is built for this
    )
    async with open_service(settings) as service:
        yield service


@asynccontextmanager
async def remote_service(folder: Path) -> AsyncIterator[SessionService]:
    """Open the service in this process, on a stock Jupyter Server over TCP."""
    async with stock_server(folder) as (url, token):
        settings = Settings.model_validate(
            {
                "state_dir": folder / "state",
                "jupyter_url": url,
                "jupyter_token": token,
                "requests_per_minute": MANY,
            }
        )
        async with open_service(settings) as service:
            yield service


def command_env(folder: Path) -> dict[str, str]:
    """Return the variables for our commands: their own state directory, no call limit."""
    return {
        "CI_TOOLS_STATE_DIR": str(folder / "state"),
        "CI_TOOLS_KERNEL_PYTHON": sys.executable,
        "CI_TOOLS_REQUESTS_PER_MINUTE": str(MANY),
        "CI_TOOLS_LOG_LEVEL": "warning",
    }


@asynccontextmanager
async def stdio_client(folder: Path) -> AsyncIterator[Client]:
    """Run `ci-tools mcp` as a host does, and connect to it."""
    server = StdioServerParameters(
        command=COMMAND, args=["mcp"], env={**os.environ, **command_env(folder)}
    )
    async with Client(server) as client:
        yield client


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[tuple[str, str]]:
    """Run `ci-tools serve`; yields its URL and a token of its own."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    env = {**command_env(folder), "CI_TOOLS_PORT": str(port)}
    with child_process(COMMAND, "serve", env=env) as process:
        await wait_for_http(f"{url}/readyz", process)
        created = await anyio.run_process(
            [COMMAND, "token", "create", "--principal", "bench"], env={**os.environ, **env}
        )
        secret = re.search(r"\bcit_[\w-]+", created.stdout.decode())
        assert secret is not None, "`ci-tools token create` printed no token"
        yield url, secret[0]


@asynccontextmanager
async def http_client(folder: Path) -> AsyncIterator[Client]:
    """Run `ci-tools serve`, and connect to its /mcp with a token."""
    async with serving(folder) as (url, token):
        headers = {"Authorization": f"Bearer {token}"}
        async with httpx2.AsyncClient(headers=headers, timeout=START_LIMIT) as http:
            transport = streamable_http_client(f"{url}/mcp", http_client=http)
            async with Client(transport) as client:
                yield client
