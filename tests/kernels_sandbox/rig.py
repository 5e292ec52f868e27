"""A kernel manager for sandboxed kernels, and a client that runs code in them."""

import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager

from ci_tools_kernels import Limits, Policy
from ci_tools_kernels.kernelspec import write_kernelspec
from ci_tools_kernels.provisioner import CHOICE, SandboxProvisioner
from ci_tools_kernels.template import Sandbox

START_TIMEOUT = 60.0
"""Seconds; the first kernel waits for the template's imports."""

NEIGHBOURS = 4
"""Sessions beside a bomb."""

SMALL = Limits(
    memory=700 << 20,
    processes=100,
    disk=40 << 20,
    files=400,
    file_size=30 << 20,
    scratch=20 << 20,
    open_files=512,
)
"""Limits that a test reaches quickly."""


@dataclass
class Result:
    """What came of some code."""

    status: str = ""
    text: str = ""
    data: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""


class Session:
    """One kernel and a client of it."""

    def __init__(
        self, manager: AsyncKernelManager, client: AsyncKernelClient, folder: Path
    ) -> None:
        self.manager = manager
        self.client = client
        self.folder = folder

    @property
    def provisioner(self) -> SandboxProvisioner:
        """The kernel's provisioner."""
        found = self.manager.provisioner
        assert isinstance(found, SandboxProvisioner)
        return found

    @property
    def sandbox(self) -> Sandbox:
        """The running sandbox."""
        found = self.provisioner.sandbox
        assert found is not None
        return found

    async def run(
        self, code: str, *, timeout: float = 30.0, wrote: anyio.Event | None = None
    ) -> Result:
        """Run code; collect its output. `wrote` is set when there is some."""
        result = Result()
        id = self.client.execute(code)
        replied = idle = False
        with anyio.fail_after(timeout):
            while not idle:
                message = await self.client.get_iopub_msg(timeout=timeout)
                if message["parent_header"].get("msg_id") != id:
                    continue
                content = message["content"]
                match message["msg_type"]:
                    case "stream":
                        result.text += content["text"]
                        if wrote is not None:
                            wrote.set()
                    case "execute_result" | "display_data":
                        result.data.append(content["data"])
                    case "error":
                        result.error = "\n".join(content["traceback"])
                    case "status":
                        idle = content["execution_state"] == "idle"
            while not replied:
                reply = await self.client.get_shell_msg(timeout=timeout)
                replied = reply["parent_header"].get("msg_id") == id
            result.status = reply["content"]["status"]
        return result


@asynccontextmanager
async def open_session(
    kernelspecs: Path,
    folder: Path,
    *,
    name: str = "sandbox",
    choice: Mapping[str, Any] | None = None,
    manager_class: type[AsyncKernelManager] = AsyncKernelManager,
) -> AsyncIterator[Session]:
    """Start a kernel of that name with `folder` as its /mnt/data."""
    await anyio.Path(folder).mkdir(exist_ok=True)
    specs = KernelSpecManager(kernel_dirs=[str(kernelspecs)])
    manager = manager_class(kernel_name=name, kernel_spec_manager=specs)
    chosen = {} if choice is None else {CHOICE: choice}
    await manager.start_kernel(cwd=str(folder), **chosen)
    try:
        client = manager.client()
        client.start_channels()
        try:
            await client.wait_for_ready(timeout=START_TIMEOUT)
            yield Session(manager, client, folder)
        finally:
            client.stop_channels()
    finally:
        await manager.shutdown_kernel(now=True)


def write_kernelspecs(folder: Path) -> Path:
    """Write kernelspecs: sandboxed, with small limits, by bubblewrap, and stock."""
    write_kernelspec(
        folder, name="sandbox", python=sys.executable, policy=Policy(preload=("numpy",))
    )
    write_kernelspec(
        folder,
        name="small",
        python=sys.executable,
        policy=Policy(preload=("numpy",), limits=SMALL),
    )
    write_kernelspec(
        folder, name="online", python=sys.executable, policy=Policy(preload=(), network="on")
    )
    write_kernelspec(
        folder, name="bubblewrap", python=sys.executable, policy=Policy(isolation="bubblewrap")
    )
    stock = folder / "stock"
    stock.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    stock.joinpath("kernel.json").write_text(
        json.dumps({"argv": argv, "display_name": "Stock", "language": "python"})
    )
    return folder


def need_watcher(session: Session) -> None:
    """Skip a test of the watcher where it has nothing to do."""
    if session.provisioner.quota:
        pytest.skip("a project quota holds the disk limit here, and nothing is interrupted")


def is_root() -> bool:
    """Tell whether the tests run as root."""
    return os.geteuid() == 0
