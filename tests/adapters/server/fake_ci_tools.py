"""The `ci-tools` command with the fake backend instead of Jupyter, for tests of the command."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from ci_tools import BackendError, Settings, runtime
from ci_tools.kernel import KernelBackend
from ci_tools.testing import FakeBackend
from ci_tools_server.__main__ import main


class ColdBackend(FakeBackend):
    """Cannot be warmed up, or is told to stop while it is opened, if the test wants it so."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        async with super().open():
            if "FAKE_STOP" in os.environ:
                os.kill(os.getpid(), signal.SIGTERM)
            yield

    async def warm_up(self) -> None:
        if reason := os.environ.get("FAKE_COLD"):
            raise BackendError(reason)


def load_fake(settings: Settings) -> KernelBackend:
    return ColdBackend(Path(os.environ["FAKE_FOLDER"]))


if __name__ == "__main__":
    runtime.load_backend = load_fake
    main()
