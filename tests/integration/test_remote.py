"""The whole service on real remote servers: what survives, and what is said when it does not."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from anyio import to_thread

from ci_tools import (
    DisplayOutput,
    InvalidPathError,
    NotFoundError,
    SessionService,
    StepOutput,
    StepStatus,
    StreamOutput,
    open_service,
)
from tests.integration.conftest import remote_settings
from tests.kernels.rig import ServerProcess, jupyter_server

KILLED_SERVICE = """
import sys, anyio
from ci_tools import Settings, StepOutput, open_service

async def main(url, token, state):
    settings = Settings(state_dir=state, jupyter_url=url, jupyter_token=token, lease_time=1)
    async with open_service(settings) as service:
        session = await service.create_session()
        await service.run_code(session.id, "x = 42")
        code = "import time\\nprint('partial', flush=True)\\ntime.sleep(600)"
        step = await service.submit_code(session.id, code)
        async with service.watch_run_step(step.id) as events:
            async for event in events:
                if isinstance(event, StepOutput):
                    break
        while not list((settings.state_dir / "spool").iterdir()):
            await anyio.sleep(0.05)
        print(session.id, step.id, flush=True)
        await anyio.sleep(60)

anyio.run(main, *sys.argv[1:])
"""


async def _final(service: SessionService, step_id: str) -> None:
    with anyio.fail_after(30):
        while not (await service.get_run_step(step_id)).status.is_final:
            await anyio.sleep(0.05)


async def test_variables_survive_a_restart_of_the_service(
    server: ServerProcess, tmp_path: Path
) -> None:
    settings = remote_settings(server, tmp_path)
    async with open_service(settings) as service:
        session = await service.create_session()
        await service.run_code(session.id, "x = 42")

    async with open_service(settings) as service:
        step = await service.run_code(session.id, "x")
        await service.close_session(session.id)

    assert step.outputs == (
        DisplayOutput(kind="result", data={"text/plain": "42"}, execution_count=2),
    )
    assert (session.isolation, step.epoch, step.notices) == ("remote", 1, ())


async def test_killed_service_leaves_the_variables_and_a_settled_step(
    server: ServerProcess, tmp_path: Path
) -> None:
    profile = server.to_profile()
    child = subprocess.Popen(
        [
            *(sys.executable, "-c", KILLED_SERVICE, str(profile.url)),
            *(profile.token.get_secret_value(), str(tmp_path)),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    session_id, step_id = child.stdout.readline().split()
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()

    async with open_service(remote_settings(server, tmp_path)) as service:
        await _final(service, step_id)
        killed = await service.get_run_step(step_id)
        with anyio.fail_after(30):
            step = await service.run_code(session_id, "x")
        await service.close_session(session_id)

    assert killed.status is StepStatus.FAILED
    assert killed.error is not None
    assert killed.error.code == "service_died"
    assert killed.outputs == (StreamOutput(name="stdout", text="partial\n"),)
    assert step.status is StepStatus.COMPLETED
    assert step.epoch == 1
    assert isinstance(step.outputs[0], DisplayOutput)
    assert step.outputs[0].data == {"text/plain": "42"}


async def test_output_lost_to_the_servers_rate_limit_is_said(
    server: ServerProcess, tmp_path: Path
) -> None:
    async with open_service(remote_settings(server, tmp_path)) as service:
        session = await service.create_session()

        step = await service.run_code(session.id, "print('x' * 10_000_000)")
        await service.close_session(session.id)

    assert step.truncated
    assert any("rate" in notice for notice in step.notices)


async def test_files_go_up_and_down_and_changes_are_told(
    server: ServerProcess, tmp_path: Path
) -> None:
    async with open_service(remote_settings(server, tmp_path)) as service:
        session = await service.create_session()
        await service.upload_file(session.id, "in/data.bin", b"0123456789" * 300_000)

        step = await service.run_code(
            session.id,
            "d = open('/mnt/data/in/data.bin', 'rb').read()\n"
            "open('/mnt/data/out.bin', 'wb').write(d[::-1]); len(d)",
        )
        async with service.open_file(session.id, "out.bin", offset=1, length=9) as chunks:
            part = b"".join([chunk async for chunk in chunks])
        listed = [(file.path, file.size) for file in await service.list_files(session.id)]
        await service.close_session(session.id)

    assert [(file.path, file.size, file.change) for file in step.files] == [
        ("out.bin", 3_000_000, "created")
    ]
    assert step.files[0].sha256 is not None
    assert part == b"876543210"
    assert listed == [("in/data.bin", 3_000_000), ("out.bin", 3_000_000)]
    assert not (server.root / "ci-tools" / session.id).exists()


async def test_gateway_without_a_file_api_moves_files_through_the_kernel(
    gateway: ServerProcess, tmp_path: Path
) -> None:
    content = os.urandom(9_000_000)
    async with open_service(remote_settings(gateway, tmp_path)) as service:
        session = await service.create_session()
        file = await service.upload_file(session.id, "data.bin", content)

        step = await service.run_code(
            session.id,
            "import hashlib\nd = open('/mnt/data/data.bin', 'rb').read()\n"
            "open('copy.bin', 'wb').write(d)\nprint(hashlib.sha256(d).hexdigest())",
        )
        async with service.open_file(session.id, "copy.bin") as chunks:
            down = b"".join([chunk async for chunk in chunks])
        async with service.open_file(session.id, "copy.bin") as chunks:
            first = await anext(aiter(chunks))
        after = await service.run_code(session.id, "1")
        await service.close_session(session.id)

    assert step.outputs == (StreamOutput(name="stdout", text=f"{file.sha256}\n"),)
    assert [(changed.path, changed.size) for changed in step.files] == [("copy.bin", 9_000_000)]
    assert down == content
    assert content.startswith(first)
    assert after.status is StepStatus.COMPLETED


async def test_server_that_is_away_fails_the_step_and_the_session_recovers(
    tmp_path: Path,
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with jupyter_server(root) as server:
        settings = remote_settings(server, tmp_path / "state")
        async with open_service(settings) as service:
            session = await service.create_session()
            await to_thread.run_sync(server.stop)

            with anyio.fail_after(60):
                away = await service.run_code(session.id, "1")
            await to_thread.run_sync(server.start)
            back = await service.run_code(session.id, "x = 1; 1")
            running = await service.submit_code(session.id, "import time; time.sleep(600)")
            await anyio.sleep(0.5)
            server.kill()
            with anyio.fail_after(60):
                cut = await service.wait_run_step(running.id)
                await service.close_session(session.id)

    assert away.status is StepStatus.FAILED
    assert away.error is not None
    assert away.error.code == "start_failed"
    assert back.status is StepStatus.COMPLETED
    assert cut.status is StepStatus.FAILED
    assert cut.error is not None
    assert cut.error.code == "server_lost"


async def test_restarted_server_gives_a_new_kernel_and_says_so(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with jupyter_server(root) as server:
        settings = remote_settings(server, tmp_path / "state")
        async with open_service(settings) as service:
            session = await service.create_session()
            await service.run_code(session.id, "open('f', 'w').write('kept')")
            await to_thread.run_sync(server.stop)
            await to_thread.run_sync(server.start)

            with anyio.fail_after(60):
                step = await service.run_code(session.id, "open('/mnt/data/f').read()")

    assert step.epoch == 2
    assert step.notices == ("Kernel restarted (it had ended): variables lost, files kept.",)
    assert isinstance(step.outputs[0], DisplayOutput)
    assert step.outputs[0].data == {"text/plain": "'kept'"}


@pytest.mark.parametrize("secret", ["wrong"])
async def test_wrong_token_is_said_without_the_token(
    server: ServerProcess, tmp_path: Path, secret: str
) -> None:
    settings = remote_settings(server, tmp_path, jupyter_token=secret)
    async with open_service(settings) as service:
        session = await service.create_session()

        step = await service.run_code(session.id, "1")

    assert step.error is not None
    assert step.error.code == "start_failed"
    assert "token" in step.error.message
    assert secret not in step.error.message


LARGE = bytes(range(256)) * (9 << 12)
"""9 MiB: enough to be sent through the kernel, in more than two messages."""

HASH_CODE = "import hashlib; print(hashlib.sha256(open('big.bin', 'rb').read()).hexdigest())"


async def test_large_upload_starts_the_kernel_and_goes_through_it(
    server: ServerProcess, tmp_path: Path
) -> None:
    async with open_service(remote_settings(server, tmp_path)) as service:
        session = await service.create_session()
        file = await service.upload_file(session.id, "big.bin", LARGE)
        epoch = (await service.get_session(session.id)).epoch
        step = await service.run_code(session.id, HASH_CODE)
        async with service.open_file(session.id, "big.bin", offset=3, length=8 << 20) as chunks:
            part = b"".join([chunk async for chunk in chunks])
        listed = [(one.path, one.size) for one in await service.list_files(session.id)]
        await service.close_session(session.id)

    assert epoch == step.epoch == 1
    assert step.outputs == (StreamOutput(name="stdout", text=f"{file.sha256}\n"),)
    assert listed == [("big.bin", len(LARGE))]
    assert part == LARGE[3 : 3 + (8 << 20)]


async def test_large_upload_does_not_wait_for_a_busy_kernel(
    server: ServerProcess, tmp_path: Path
) -> None:
    async with open_service(remote_settings(server, tmp_path)) as service:
        session = await service.create_session()
        code = "import time\nprint('started', flush=True)\ntime.sleep(600)"
        async with service.stream_code(session.id, code) as events:
            async for event in events:
                if isinstance(event, StepOutput):
                    break
            with anyio.fail_after(60):
                file = await service.upload_file(session.id, "big.bin", LARGE)
        step = await service.run_code(session.id, HASH_CODE)
        await service.close_session(session.id)

    assert step.outputs == (StreamOutput(name="stdout", text=f"{file.sha256}\n"),)


async def test_large_upload_keeps_the_rules_of_the_server(
    server: ServerProcess, tmp_path: Path
) -> None:
    async with open_service(remote_settings(server, tmp_path)) as service:
        session = await service.create_session()
        with pytest.raises(InvalidPathError):
            await service.upload_file(session.id, ".hidden.bin", LARGE)
        files = await service.list_files(session.id)
        await service.close_session(session.id)

    assert files == []


async def test_large_upload_goes_to_the_server_if_code_has_broken_the_way_through_the_kernel(
    server: ServerProcess, tmp_path: Path
) -> None:
    async with open_service(remote_settings(server, tmp_path)) as service:
        session = await service.create_session()
        await service.run_code(
            session.id,
            "import _ci_tools\n"
            "for name in _ci_tools._OPERATIONS:\n"
            "    _ci_tools._OPERATIONS[name] = lambda request, buffers: (True, [])",
        )
        file = await service.upload_file(session.id, "big.bin", LARGE)
        step = await service.run_code(session.id, HASH_CODE)
        await service.close_session(session.id)

    assert step.outputs == (StreamOutput(name="stdout", text=f"{file.sha256}\n"),)


@pytest.mark.parametrize("end", ["closed", "expired"])
async def test_the_end_of_a_session_leaves_alone_what_its_links_lead_to(
    server: ServerProcess, tmp_path: Path, end: str
) -> None:
    canary = tmp_path / "canaries" / "one"
    canary.parent.mkdir()
    canary.write_text("alive")
    settings = remote_settings(server, tmp_path / "state", session_retention=3600)
    async with open_service(settings) as service:
        session = await service.create_session()
        folder = server.root / "ci-tools" / session.id
        await service.upload_file(session.id, "own.txt", b"x")
        step = await service.run_code(
            session.id,
            f"import os\nos.symlink({str(canary.parent)!r}, 'folder')\n"
            f"os.symlink({str(canary)!r}, 'file')",
        )
        assert (folder / "file").is_symlink()
        with pytest.raises(InvalidPathError):
            await service.upload_file(session.id, "folder/new", b"x")
        with pytest.raises(NotFoundError):
            await service.delete_file(session.id, "file")
        await service.delete_file(session.id, "own.txt")
        if end == "closed":
            await service.close_session(session.id)
    if end == "expired":
        async with open_service(settings.model_copy(update={"session_retention": 0.2})):
            with anyio.fail_after(60):
                while folder.exists():
                    await anyio.sleep(0.05)

    assert step.status is StepStatus.COMPLETED
    assert not folder.exists()
    assert [path.name for path in canary.parent.iterdir()] == ["one"]
    assert canary.read_text() == "alive"
