"""Shell commands beside a session's kernel, and the listing of its variables, by the service."""

from pathlib import Path

import anyio
import pytest
from pydantic import SecretStr

from ci_tools import (
    CommandDone,
    CommandOutput,
    InvalidArgumentError,
    InvalidPathError,
    LimitError,
    NotFoundError,
    SessionService,
    Settings,
    StepOutput,
    StepStatus,
    Variable,
    open_service,
)
from ci_tools.commands import to_shell
from ci_tools.testing import FakeBackend


async def _busy(service: SessionService, session_id: str) -> str:
    """Run code that ends when the file `go` is there; return when it runs."""
    step = await service.submit_code(
        session_id,
        "import os, time\nprint('busy', flush=True)\nwhile not os.path.exists('go'): "
        "time.sleep(0.01)",
    )
    async with service.watch_run_step(step.id) as events:
        async for event in events:
            if isinstance(event, StepOutput):
                break
    return step.id


async def test_command_starts_the_kernel_and_is_no_step(
    service: SessionService, backend: FakeBackend
) -> None:
    session = await service.create_session()

    result = await service.run_command(session.id, "echo out; echo err >&2; exit 3")

    assert (result.stdout, result.stderr, result.exit_status) == ("out\n", "err\n", 3)
    assert (result.timed_out, result.truncated, result.via) == (False, False, "process")
    assert backend.started == 1
    assert (await service.get_session(session.id)).epoch == 1
    assert await service.list_run_steps(session.id) == []


async def test_command_does_not_wait_for_the_running_step(service: SessionService) -> None:
    session = await service.create_session()
    step_id = await _busy(service, session.id)

    with anyio.fail_after(20):
        result = await service.run_command(session.id, "ls; touch /mnt/data/go")
        step = await service.wait_run_step(step_id)

    assert result.exit_status == 0
    assert step.status is StepStatus.COMPLETED


async def test_command_does_not_wait_for_the_step_that_starts_the_kernel(
    service: SessionService,
) -> None:
    session = await service.create_session()
    step = await service.submit_code(
        session.id, "import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)"
    )

    with anyio.fail_after(20):
        await service.run_command(session.id, "touch go")
        assert (await service.wait_run_step(step.id)).status is StepStatus.COMPLETED


async def test_command_beside_a_kernel_that_died_starts_another(
    service: SessionService, backend: FakeBackend
) -> None:
    session = await service.create_session()
    await service.run_code(session.id, "1")
    ref = (await service.get_session(session.id)).kernel
    assert ref is not None
    backend.kill_kernel(ref)

    result = await service.run_command(session.id, "echo here")

    assert result.stdout == "here\n"
    assert (await service.get_session(session.id)).epoch == 2


async def test_events_of_a_command_come_as_they_happen(service: SessionService) -> None:
    session = await service.create_session()
    found = []

    with anyio.fail_after(20):
        async with service.stream_command(
            session.id, "echo begun; until [ -e go ]; do sleep 0.01; done; echo gone"
        ) as events:
            async for event in events:
                found.append(event)
                if event == CommandOutput(name="stdout", text="begun\n"):
                    await service.upload_file(session.id, "go", b"")

    assert found == [
        CommandOutput(name="stdout", text="begun\n"),
        CommandOutput(name="stdout", text="gone\n"),
        CommandDone(exit_status=0, timed_out=False, truncated=False, via="process"),
    ]


async def test_closing_the_session_ends_its_commands(service: SessionService) -> None:
    session = await service.create_session()

    with anyio.fail_after(20):
        async with service.stream_command(session.id, "echo begun; sleep 300") as events:
            async for event in events:
                if isinstance(event, CommandDone):
                    break
                await service.close_session(session.id)

    assert isinstance(event, CommandDone)
    assert event.exit_status < 0


async def test_command_of_another_principal_finds_no_session(service: SessionService) -> None:
    session = await service.create_session()

    with pytest.raises(NotFoundError):
        await service.act_as("bob").run_command(session.id, "id")
    with pytest.raises(NotFoundError):
        await service.act_as("bob").list_variables(session.id)


async def test_commands_that_cannot_work_are_refused(service: SessionService) -> None:
    session = await service.create_session()

    for command, timeout in (("", 1.0), ("id", 0.0), ("id", 1e6)):
        with pytest.raises(InvalidArgumentError):
            await service.run_command(session.id, command, timeout=timeout)
    with pytest.raises(InvalidPathError):
        await service.run_command(session.id, "id", cwd="../other")


async def test_too_many_commands_are_refused(tmp_path: Path, backend: FakeBackend) -> None:
    settings = Settings(state_dir=tmp_path / "state", steps_per_principal=1)
    async with open_service(settings, backend=backend) as service:
        session = await service.create_session()
        async with service.stream_command(session.id, "sleep 300"):
            with pytest.raises(LimitError):
                await service.run_command(session.id, "true")

        assert (await service.run_command(session.id, "true")).exit_status == 0


async def test_secrets_are_masked_in_what_commands_write(
    tmp_path: Path, backend: FakeBackend
) -> None:
    settings = Settings(
        state_dir=tmp_path / "state", kernel_environment={"KEY": SecretStr("hunter2hunter2")}
    )
    async with open_service(settings, backend=backend) as service:
        session = await service.create_session()

        result = await service.run_command(session.id, "printf hunter2; echo hunter2")

    assert result.stdout == "***\n"


async def test_variables_of_a_session_are_listed_between_steps(service: SessionService) -> None:
    session = await service.create_session()
    assert await service.list_variables(session.id) == []
    await service.run_code(session.id, "import os\n_secret = 1\nx = [1, 2]\ny = 'abc'\nz = 2.5")

    found = await service.list_variables(session.id)

    assert found[0] == Variable(name="x", type="list", detail="length 2")
    assert [variable.name for variable in found] == ["x", "y", "z"]
    assert len(await service.list_run_steps(session.id)) == 1


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("cat /mnt/data/a", r"cat /a\ b/a"),
        ("cat '/mnt/data/a'", "cat '/a b/a'"),
        ('cat "/mnt/data/a" /mnt/data', r'cat "/a b/a" /a\ b'),
        ("cat /mnt/database x/mnt/data", "cat /mnt/database x/mnt/data"),
        (r"echo \' /mnt/data", r"echo \' /a\ b"),
    ],
)
def test_the_folder_is_quoted_as_it_stands_in_the_command(command: str, expected: str) -> None:
    assert to_shell(command, "/a b") == expected
