import subprocess
import sys
from pathlib import Path

import anyio
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream

from ci_tools.models import Session, StepStatus
from ci_tools.stores.blobs import BlobStore
from ci_tools.stores.records import RecordStore, open_records_at

PROCESSES = 3
STEPS = 12


async def run_workers(*arguments: str) -> list[str]:
    """Let processes work on a store at the same moment; return what each of them said."""
    said = [""] * PROCESSES
    ready = [anyio.Event() for _ in range(PROCESSES)]

    async def listen(number: int, process: Process) -> None:
        assert process.stdout is not None
        async for text in TextReceiveStream(process.stdout):
            said[number] += text
            ready[number].set()

    command = [sys.executable, str(Path(__file__).with_name("_worker.py")), *arguments]
    processes = [
        await anyio.open_process(command, stderr=subprocess.STDOUT) for _ in range(PROCESSES)
    ]
    try:
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                for number, process in enumerate(processes):
                    tasks.start_soon(listen, number, process)
                for event in ready:
                    await event.wait()
                for process in processes:
                    assert process.stdin is not None
                    await process.stdin.send(b"go\n")
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
            await process.aclose()
    return said


async def test_processes_that_open_a_new_store_at_once_all_succeed(
    empty_url: str, blobs: BlobStore
) -> None:
    said = await run_workers(empty_url, "ada", "new", "1")

    assert said == ["ready\ndone\n"] * PROCESSES
    async with open_records_at(empty_url, blobs) as store:
        assert len(await store.list_sessions(principal="ada")) == PROCESSES


async def test_steps_of_one_session_run_one_at_a_time_across_processes(
    store: RecordStore, url: str, session: Session
) -> None:
    said = await run_workers(url, "ada", session.id, str(STEPS))

    assert said == ["ready\ndone\n"] * PROCESSES
    steps = await store.list_steps(session.id, principal="ada", limit=1000)
    steps.reverse()
    assert [step.status for step in steps] == [StepStatus.COMPLETED] * (PROCESSES * STEPS)
    for earlier, later in zip(steps, steps[1:], strict=False):
        assert earlier.finished_at is not None and later.started_at is not None
        assert earlier.finished_at <= later.started_at
