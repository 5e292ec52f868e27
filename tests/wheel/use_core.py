"""Use an installed core without extras: run a step on the fake backend, import nothing optional."""

import importlib.util
import sys
from pathlib import Path

import anyio

from ci_tools import StepStatus, open_service
from ci_tools.testing import FakeBackend

OPTIONAL = ("mcp", "starlette", "httpx2", "websockets", "jupyter_server", "typer", "rich")


async def main() -> None:
    """Run one step and say so."""
    async with open_service(backend=FakeBackend(Path.cwd() / "fake")) as service:
        session = await service.create_session()
        step = await service.run_code(session.id, "print('core')")
    assert step.status is StepStatus.COMPLETED, step
    installed = [name for name in OPTIONAL if importlib.util.find_spec(name)]
    assert not installed, f"the core pulls in {installed}"
    print(f"the core alone ran a step on Python {sys.version.split()[0]}")


anyio.run(main)
