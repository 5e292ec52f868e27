"""What the fake backend needs a test of its own for, beside the contract of all backends."""

import os
from pathlib import Path

from ci_tools import StepStatus, open_service
from ci_tools.settings import Settings
from ci_tools.testing import FakeBackend


async def test_a_child_starts_whatever_numbers_its_pipes_have(tmp_path: Path) -> None:
    """In a process that has many files open, one end may have the number the other was to get."""
    backend = FakeBackend(tmp_path / "folders")
    settings = Settings(state_dir=tmp_path / "state")
    async with open_service(settings, backend=backend) as service:
        session = await service.create_session()
        opened = [os.open(os.devnull, os.O_RDONLY)]
        while opened[-1] < opened[0] + 100:
            opened.append(os.open(os.devnull, os.O_RDONLY))
        first = opened[-1] - 100
        try:
            for number in (first, first + 1, first + 2, first + 100):
                os.close(number)
            step = await service.run_code(session.id, "print(6 * 7)")
        finally:
            for number in set(opened) - {first, first + 1, first + 2, first + 100}:
                os.close(number)
    assert (step.status, backend.started) == (StepStatus.COMPLETED, 1), step.error
