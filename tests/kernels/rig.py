"""Real servers, a cuttable connection and small verbs for the tests of kernels."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import anyio
import anyio.abc
import httpx2

from ci_tools.kernel import Execution, ExecutionDone, Kernel, KernelBackend, KernelEvent
from ci_tools.models import DisplayOutput, ErrorOutput, StreamOutput
from ci_tools.settings import JupyterServerProfile

TOKEN = "a token for tests"

DEADLINE = 60.0
"""Seconds after which a test that waits has failed; generous, for busy machines."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A backend, and the name of one of its servers."""

    name: str
    backend: KernelBackend
    server: str


@dataclass(kw_only=True)
class Outcome:
    """Everything that came of one execution."""

    events: list[KernelEvent] = field(default_factory=list)

    @property
    def done(self) -> ExecutionDone:
        """The last event."""
        last = self.events[-1]
        assert isinstance(last, ExecutionDone)
        return last

    def text(self, name: str = "stdout") -> str:
        """The text of a stream."""
        return "".join(
            event.text
            for event in self.events
            if isinstance(event, StreamOutput) and event.name == name
        )

    @property
    def result(self) -> object:
        """The result as plain text."""
        return next(
            (
                event.data["text/plain"]
                for event in self.events
                if isinstance(event, DisplayOutput) and event.kind == "result"
            ),
            None,
        )

    @property
    def error(self) -> str | None:
        """The name of the exception."""
        return next((event.name for event in self.events if isinstance(event, ErrorOutput)), None)


async def run(kernel: Kernel, code: str) -> Outcome:
    """Run code to its end."""
    return await follow(await kernel.execute(code, execution_id=uuid4().hex))


async def follow(execution: Execution) -> Outcome:
    """Receive the rest of an execution's events."""
    outcome = Outcome()
    with anyio.fail_after(DEADLINE):
        while True:
            event = await execution.receive()
            outcome.events.append(event)
            if isinstance(event, ExecutionDone):
                return outcome


async def wait_for_text(execution: Execution, text: str) -> str:
    """Receive events until a stream has printed `text`; return all that it printed."""
    seen = ""
    with anyio.fail_after(DEADLINE):
        while text not in seen:
            event = await execution.receive()
            assert not isinstance(event, ExecutionDone), seen
            if isinstance(event, StreamOutput):
                seen += event.text
    return seen


async def chunked(content: bytes, size: int = 300_000) -> AsyncIterator[bytes]:
    """Yield content in pieces."""
    for start in range(0, len(content), size):
        yield content[start : start + size]


def find_port() -> int:
    """Return a loopback port that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        assert isinstance(port, int)
        return port


@dataclass(kw_only=True)
class ServerProcess:
    """A Jupyter Server or Kernel Gateway that a test started."""

    command: Sequence[str]
    root: Path
    port: int
    health: str
    base: str = ""
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}/{self.base}"

    def to_profile(self, *, port: int | None = None) -> JupyterServerProfile:
        """Return the setting that names it, perhaps by way of another port."""
        url = f"http://127.0.0.1:{port or self.port}/{self.base}"
        return JupyterServerProfile.model_validate({"url": url, "token": TOKEN})

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.process = subprocess.Popen(
            self.command,
            cwd=self.root,
            env=_clean_variables(self.root),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        give_up_at = time.monotonic() + DEADLINE
        while True:
            assert self.process.poll() is None, "the server ended"
            with contextlib.suppress(httpx2.HTTPError):
                headers = {"Authorization": f"token {TOKEN}"}
                if httpx2.get(self.url + self.health, headers=headers).status_code == 200:
                    return
            assert time.monotonic() < give_up_at, "the server does not answer"
            time.sleep(0.05)

    def kill(self) -> None:
        """End it as the operating system would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> None:
        """End it and its kernels."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()


@contextlib.contextmanager
def jupyter_server(root: Path, *options: str) -> Iterator[ServerProcess]:
    """Run a stock Jupyter Server below a base path."""
    port = find_port()
    server = ServerProcess(
        command=[
            sys.executable,
            *("-m", "jupyter_server", "--no-browser", "--allow-root"),
            f"--ServerApp.port={port}",
            "--ServerApp.port_retries=0",
            f"--ServerApp.root_dir={root}",
            "--ServerApp.base_url=/user/ada/",
            f"--IdentityProvider.token={TOKEN}",
            *options,
        ],
        root=root,
        port=port,
        health="api/status",
        base="user/ada/",
    )
    yield from _running(server)


@contextlib.contextmanager
def kernel_gateway(root: Path, *options: str) -> Iterator[ServerProcess]:
    """Run a stock Kernel Gateway."""
    port = find_port()
    server = ServerProcess(
        command=[
            sys.executable,
            *("-m", "kernel_gateway"),
            f"--KernelGatewayApp.port={port}",
            "--KernelGatewayApp.port_retries=0",
            f"--KernelGatewayApp.auth_token={TOKEN}",
            *options,
        ],
        root=root,
        port=port,
        health="api",
    )
    yield from _running(server)


def _running(server: ServerProcess) -> Iterator[ServerProcess]:
    try:
        server.start()
        yield server
    finally:
        server.stop()


def _clean_variables(root: Path) -> dict[str, str]:
    config = {
        "JUPYTER_CONFIG_DIR": str(root / ".jupyter"),
        "JUPYTER_RUNTIME_DIR": str(root / ".runtime"),
        "XDG_DATA_HOME": str(root / ".share"),
    }
    return {name: value for name, value in os.environ.items() if name != "MPLBACKEND"} | config


class Relay:
    """A TCP relay whose connections can be cut, and held back, by a test."""

    def __init__(self, target: int) -> None:
        self.port = 0
        self.accepting = True
        self._target = target
        self._streams: list[anyio.abc.SocketStream] = []

    async def cut(self) -> None:
        """Break every connection."""
        streams, self._streams = self._streams, []
        for stream in streams:
            await anyio.aclose_forcefully(stream)

    async def serve(self, listener: anyio.abc.Listener[anyio.abc.SocketStream]) -> None:
        """Relay connections until cancelled."""
        await listener.serve(self._relay)

    async def _relay(self, near: anyio.abc.SocketStream) -> None:
        if not self.accepting:
            await anyio.aclose_forcefully(near)
            return
        with contextlib.suppress(OSError):
            far = await anyio.connect_tcp("127.0.0.1", self._target)
            self._streams += [near, far]
            async with near, far, anyio.create_task_group() as tasks:
                tasks.start_soon(_pump, near, far, tasks.cancel_scope)
                tasks.start_soon(_pump, far, near, tasks.cancel_scope)


async def _pump(
    source: anyio.abc.SocketStream, target: anyio.abc.SocketStream, scope: anyio.CancelScope
) -> None:
    with contextlib.suppress(anyio.EndOfStream, anyio.ClosedResourceError, OSError):
        with contextlib.suppress(anyio.BrokenResourceError):
            while True:
                await target.send(await source.receive())
    scope.cancel()


@asynccontextmanager
async def relay(target: int) -> AsyncIterator[Relay]:
    """Relay a free port to `target`."""
    listeners = await anyio.create_tcp_listener(local_host="127.0.0.1")
    (listener,) = listeners.listeners
    found = Relay(target)
    found.port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listeners, anyio.create_task_group() as tasks:
        tasks.start_soon(found.serve, listener)
        try:
            yield found
        finally:
            tasks.cancel_scope.cancel()
