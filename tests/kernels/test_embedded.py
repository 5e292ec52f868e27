"""The embedded server: what it needs, whom it serves, and that nothing of it stays behind."""

import contextlib
import json
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import anyio
import anyio.to_thread
import psutil
import pytest

import ci_tools_jupyter.embedded
from ci_tools.errors import KernelDiedError, KernelLostError
from ci_tools.kernel import KernelRequest, WorkspaceRequest
from ci_tools.models import DisplayOutput, KernelRef
from ci_tools_jupyter import JupyterBackend
from tests.kernels.rig import DEADLINE, follow, run, wait_for_text

CONTROL_GROUPS = Path("/sys/fs/cgroup")


async def start(backend: JupyterBackend, session_id: str | None = None) -> KernelRef:
    session_id = session_id or f"sess_{uuid4().hex}"
    return await backend.start_kernel(
        KernelRequest(session_id=session_id, server="embedded", kernelspec="", epoch=1)
    )


@dataclass(frozen=True, kw_only=True)
class Other:
    """Another service process, and what it started."""

    process: subprocess.Popen[str]
    ref: KernelRef
    pids: list[int]


@contextlib.contextmanager
def other_service(state_dir: Path) -> Iterator[Other]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.kernels.service_process", str(state_dir)],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdin is not None
    try:
        started = json.loads(process.stdout.readline())
        yield Other(process=process, ref=KernelRef(**started["ref"]), pids=started["pids"])
    finally:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()


async def wait_until_gone(pids: list[int]) -> None:
    with anyio.fail_after(DEADLINE):
        while any(is_running(pid) for pid in pids):
            await anyio.sleep(0.02)


def is_running(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False


async def wait_until_no_groups(pids: list[int]) -> None:
    """Wait until no control group is left that one of these processes made."""
    patterns = [f"{'*/' * depth}ci-tools-{pid}-*" for pid in pids for depth in range(4)]
    with anyio.fail_after(DEADLINE):
        while any(match for pattern in patterns for match in CONTROL_GROUPS.glob(pattern)):
            await anyio.sleep(0.1)


async def wait_until_empty(folder: Path) -> None:
    with anyio.fail_after(DEADLINE):
        while any(folder.iterdir()):
            await anyio.sleep(0.02)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, None])
async def test_nothing_survives_the_service(tmp_path: Path, end: signal.Signals | None) -> None:
    def live_and_die() -> list[int]:
        with other_service(tmp_path) as other:
            assert len(other.pids) >= 4
            assert all(is_running(pid) for pid in other.pids)
            if end is not None:
                other.process.send_signal(end)
                other.process.wait(30)
            return other.pids

    pids = await anyio.to_thread.run_sync(live_and_die)

    await wait_until_gone(pids)
    await wait_until_empty(tmp_path / "run")
    await wait_until_no_groups(pids)


async def test_a_kernel_of_another_process_can_be_used_while_that_lives(
    tmp_path: Path,
) -> None:
    backend = JupyterBackend(state_dir=tmp_path)
    async with backend.open():
        with other_service(tmp_path) as other:
            async with backend.connect(other.ref) as kernel:
                outcome = await run(kernel, "x")
                execution = await kernel.execute(
                    "print('busy', flush=True)\nimport time; time.sleep(600)",
                    execution_id=uuid4().hex,
                )
                await wait_for_text(execution, "busy")
                other.process.kill()
                with pytest.raises(KernelDiedError):
                    await follow(execution)

        assert outcome.result == "'from the other process'"
        with pytest.raises(KernelLostError):
            async with backend.connect(other.ref):
                pass
        await backend.stop_kernel(other.ref)


async def test_a_server_that_is_killed_takes_its_kernels_along_and_is_replaced(
    tmp_path: Path,
) -> None:
    backend = JupyterBackend(state_dir=tmp_path)
    async with backend.open():
        before = set(psutil.Process().children())
        ref, idle = await start(backend), await start(backend)
        (server,) = set(psutil.Process().children()) - before
        pids = [process.pid for process in server.children(recursive=True)]
        async with backend.connect(ref) as kernel:
            execution = await kernel.execute(
                "print('busy', flush=True)\nimport time; time.sleep(600)",
                execution_id=uuid4().hex,
            )
            await wait_for_text(execution, "busy")
            server.kill()
            with pytest.raises(KernelDiedError):
                await follow(execution)
        with pytest.raises(KernelLostError):
            async with backend.connect(idle):
                pass
        await wait_until_gone(pids)

        async with backend.connect(await start(backend)) as kernel:
            assert (await run(kernel, "1 + 1")).result == "2"
        await backend.stop_kernel(ref)


async def test_what_a_killed_server_left_is_removed_by_the_next(tmp_path: Path) -> None:
    run_folder = tmp_path / "run"
    (run_folder / "0123456789ab").mkdir(parents=True)
    (run_folder / "0123456789ab" / "server.log").touch()
    record = {"url": "http://localhost/", "token": "t", "socket": str(tmp_path / "none")}
    (run_folder / "0123456789ab.json").write_text(json.dumps(record))
    (run_folder / "broken.json").write_text("{")
    backend = JupyterBackend(state_dir=tmp_path)

    async with backend.open():
        await backend.warm_up()

        assert sorted(path.suffix for path in run_folder.iterdir()) == ["", ".json"]
        assert not (run_folder / "0123456789ab").exists()
    assert list(run_folder.iterdir()) == []


async def test_where_there_are_no_unix_sockets_tcp_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ci_tools_jupyter.embedded, "_HAS_UNIX_SOCKETS", False)
    backend = JupyterBackend(state_dir=tmp_path)
    other = JupyterBackend(state_dir=tmp_path)
    async with backend.open(), other.open():
        ref = await start(backend)
        async with backend.connect(ref) as kernel:
            await run(kernel, "x = 1")
        async with other.connect(ref) as kernel:
            assert (await run(kernel, "x")).result == "1"


async def test_a_long_state_directory_is_no_obstacle(tmp_path: Path) -> None:
    backend = JupyterBackend(state_dir=tmp_path / ("long" * 30))
    async with backend.open():
        async with backend.connect(await start(backend)) as kernel:
            assert (await run(kernel, "1 + 1")).result == "2"


async def test_the_server_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI_TOOLS_JUPYTER_TOKEN", "secret")
    monkeypatch.setenv("MPLBACKEND", "agg")
    backend = JupyterBackend(state_dir=tmp_path)
    async with backend.open():
        async with backend.connect(await start(backend)) as kernel:
            names = (await run(kernel, "import os\nprint(*os.environ)")).text().split()
            backend_of_plots = (await run(kernel, "os.environ['MPLBACKEND']")).result
        (record,) = (tmp_path / "run").glob("*.json")
        token = json.loads(record.read_text())["token"]
        command_lines = [" ".join(process.cmdline()) for process in psutil.Process().children()]

        assert not [name for name in names if name.startswith(("CI_TOOLS_", "JUPYTER_"))]
        assert "inline" in str(backend_of_plots)
        assert stat.S_IMODE(record.stat().st_mode) == 0o600
        assert stat.S_IMODE(record.parent.stat().st_mode) == 0o700
        assert not [line for line in command_lines if token in line]


async def test_figures_are_shown_as_in_a_notebook(embedded: JupyterBackend) -> None:
    ref = await start(embedded)
    async with embedded.connect(ref) as kernel:
        outcome = await run(
            kernel, "import matplotlib.pyplot as plt\nplt.plot([1, 3, 2])\nplt.show()"
        )
    await embedded.stop_kernel(ref)

    images = [event for event in outcome.events if isinstance(event, DisplayOutput)]
    assert "image/png" in images[0].data


async def test_many_kernels_start_and_work_at_once(embedded: JupyterBackend) -> None:
    results: list[object] = []

    async def live(number: int) -> None:
        ref = await start(embedded)
        async with embedded.connect(ref) as kernel:
            results.append((await run(kernel, f"{number} * 2")).result)
        await embedded.stop_kernel(ref)

    async with anyio.create_task_group() as tasks:
        for number in range(4):
            tasks.start_soon(live, number)

    assert sorted(str(result) for result in results) == ["0", "2", "4", "6"]


async def test_removing_a_folder_that_never_was_does_nothing(embedded: JupyterBackend) -> None:
    await embedded.remove_workspace(WorkspaceRequest(session_id="sess_never", server="embedded"))


@pytest.mark.parametrize("session_id", ["../x", "", "a/b", "."])
async def test_a_session_id_is_no_path(embedded: JupyterBackend, session_id: str) -> None:
    request = WorkspaceRequest(session_id=session_id, server="embedded")

    with pytest.raises(ValueError, match="session id"):
        await embedded.open_workspace(request)
    with pytest.raises(ValueError, match="session id"):
        await embedded.remove_workspace(request)
