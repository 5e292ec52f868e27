"""The `ci-tools` command with the fake backend instead of Jupyter, for tests of the command."""

import os
from pathlib import Path

from ci_tools import Settings, runtime
from ci_tools.kernel import KernelBackend
from ci_tools.testing import FakeBackend
from ci_tools_server.__main__ import main


def load_fake(settings: Settings) -> KernelBackend:
    return FakeBackend(Path(os.environ["FAKE_FOLDER"]))


if __name__ == "__main__":
    runtime.load_backend = load_fake
    main()
