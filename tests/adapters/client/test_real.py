"""The client with a real kernel behind the service."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from ci_tools import (
    DisplayOutput,
    Settings,
    StepFinished,
    StepOutput,
    StepStatus,
    StreamOutput,
    open_service,
)
from ci_tools_client import RemoteService, open_client
from tests.adapters.client.conftest import serve_api


@pytest.fixture
async def embedded(tmp_path: Path) -> AsyncIterator[RemoteService]:
    """A client of a service with its own embedded server."""
    settings = Settings(state_dir=tmp_path / "state", interrupt_grace=20)
    async with open_service(settings) as service:
        _, token = await service.create_token()
        async with serve_api(service, settings) as url, open_client(url, token) as client:
            yield client


async def test_a_real_kernel_is_used_through_the_client(embedded: RemoteService) -> None:
    block = bytes(range(256)) * 4096

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(8):
            yield block

    with anyio.fail_after(120):
        session = await embedded.create_session(environment={"GREETING": "hello"})
        file = await embedded.upload_file(session.id, "in/data.bin", chunks())
        step = await embedded.run_code(
            session.id,
            "import hashlib, os\n"
            "print(os.environ['GREETING'])\n"
            "open('out.txt', 'w').write("
            "hashlib.sha256(open('/mnt/data/in/data.bin', 'rb').read()).hexdigest())\n"
            "{'answer': 42}",
        )
        async with embedded.open_file(session.id, "out.txt") as content:
            digest = b"".join([chunk async for chunk in content])
        async with embedded.stream_code(
            session.id, "print('one', flush=True)\nimport time\nwhile True: time.sleep(0.01)"
        ) as events:
            async for event in events:
                if isinstance(event, StepOutput):
                    break
        [left] = await embedded.list_run_steps(session.id, limit=1)
        command = await embedded.run_command(session.id, "cat out.txt; echo $GREETING")
        after = await embedded.run_code(session.id, "os.environ['GREETING']")

    assert step.status is StepStatus.COMPLETED
    assert StreamOutput(name="stdout", text="hello\n") in step.outputs
    [result] = [output for output in step.outputs if isinstance(output, DisplayOutput)]
    assert result.data["text/plain"] == "{'answer': 42}"
    assert [changed.path for changed in step.files] == ["out.txt"]
    assert digest.decode() == hashlib.sha256(block * 8).hexdigest() == file.sha256
    assert left.status is StepStatus.CANCELLED
    assert command.stdout.startswith(digest.decode())
    assert after.status is StepStatus.COMPLETED


async def test_a_stream_of_a_real_kernel_ends_with_its_step(embedded: RemoteService) -> None:
    with anyio.fail_after(120):
        session = await embedded.create_session()
        async with embedded.stream_code(session.id, "for i in range(3): print(i)") as events:
            seen = [event async for event in events]

    last = seen[-1]
    assert isinstance(last, StepFinished)
    assert last.step.outputs == (StreamOutput(name="stdout", text="0\n1\n2\n"),)
