"""What links in sessions' folders lead to is left alone, whatever a remote server is like.

Every link leads into a folder that the test has made; see also `test_contract.py`.
"""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from ci_tools.errors import BackendError, KernelStartError, NotFoundError
from ci_tools.kernel import Kernel, KernelRequest, WorkspaceRequest
from ci_tools_jupyter import JupyterBackend
from ci_tools_kernels import Policy
from ci_tools_kernels.kernelspec import write_kernelspec
from tests.kernels.rig import ServerProcess, chunked, jupyter_server, kernel_gateway, run

SANDBOXED = "ci-tools-python"


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file, alone in its folder."""
    path = tmp_path / "canaries" / "one"
    path.parent.mkdir()
    path.write_text("alive")
    return path


def assert_alive(canary: Path) -> None:
    assert [path.name for path in canary.parent.iterdir()] == ["one"]
    assert canary.read_text() == "alive"


@contextmanager
def server_without_python(tmp_path: Path, *options: str) -> Iterator[ServerProcess]:
    """A Jupyter Server whose only kernel is bash."""
    command = [sys.executable, "-m", "bash_kernel.install", "--prefix", str(tmp_path / "prefix")]
    subprocess.run(command, check=True, capture_output=True)
    root = tmp_path / "root"
    root.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(tmp_path / "prefix" / "share" / "jupyter"))
        with jupyter_server(
            root,
            "--KernelSpecManager.ensure_native_kernel=False",
            "--KernelSpecManager.allowed_kernelspecs=bash",
            *options,
        ) as server:
            yield server


@pytest.mark.parametrize(
    ("options", "stays"),
    [
        ((), False),
        (("--FileContentsManager.delete_to_trash=False",), True),
        (
            (
                "--FileContentsManager.delete_to_trash=False",
                "--FileContentsManager.always_delete_dir=True",
            ),
            False,
        ),
    ],
    ids=["trash", "refuses", "deletes"],
)
async def test_a_server_without_python_removes_a_folder_whole_or_not_at_all(
    tmp_path: Path,
    canary: Path,
    options: tuple[str, ...],
    stays: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    where = WorkspaceRequest(session_id=f"sess_{uuid4().hex}", server="bash")
    with server_without_python(tmp_path, *options) as server:
        backend = JupyterBackend(
            state_dir=tmp_path / "state", remotes={"bash": server.to_profile()}
        )
        async with backend.open():
            workspace = await backend.open_workspace(where)
            assert workspace is not None
            folder = server.root / "ci-tools" / where.session_id
            (folder / "folder").symlink_to(canary.parent)
            (folder / "file").symlink_to(canary)
            (folder / "own").write_text("x")
            for path in ("file", "folder/one", "own", "new"):
                with pytest.raises(BackendError, match="Python kernel"):
                    await workspace.write(path, chunked(b"x"))
            with pytest.raises(BackendError, match="Python kernel"):
                await workspace.delete("file")
            await backend.remove_workspace(where)
            assert_alive(canary)

            assert folder.exists() == stays
            assert ("stays on" in caplog.text) == stays


async def test_a_link_in_the_place_of_a_sessions_folder_leads_nowhere(
    tmp_path: Path, canary: Path, stock_server: ServerProcess
) -> None:
    backend = JupyterBackend(state_dir=tmp_path, remotes={"stock": stock_server.to_profile()})
    where = WorkspaceRequest(session_id=f"sess_{uuid4().hex}", server="stock")
    async with backend.open():
        workspace = await backend.open_workspace(where)
        assert workspace is not None
        folder = stock_server.root / "ci-tools" / where.session_id
        folder.rmdir()
        folder.symlink_to(canary.parent)
        try:
            with pytest.raises(BackendError):
                await workspace.write("one", chunked(b"x"))
            with pytest.raises(BackendError):
                await workspace.delete("one")
            await backend.remove_workspace(where)
            assert_alive(canary)
        finally:
            if folder.is_symlink():
                folder.unlink()


# --- our sandbox on somebody's server


@pytest.fixture(scope="module")
def kernelspec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which Jupyter finds the sandboxed kernelspec."""
    folder = tmp_path_factory.mktemp("share")
    write_kernelspec(folder / "kernels", python=sys.executable, policy=Policy(preload=(), pool=0))
    return folder


@asynccontextmanager
async def sandboxed(
    server: ServerProcess, state: Path
) -> AsyncIterator[tuple[Kernel, JupyterBackend, WorkspaceRequest]]:
    """A sandboxed kernel on a remote server; its session is removed at the end."""
    backend = JupyterBackend(state_dir=state, remotes={"remote": server.to_profile()})
    request = KernelRequest(
        session_id=f"sess_{uuid4().hex}",
        server="remote",
        kernelspec=SANDBOXED,
        epoch=1,
        environment={"API_KEY": "of this session"},
    )
    where = WorkspaceRequest(session_id=request.session_id, server="remote", kernelspec=SANDBOXED)
    async with backend.open():
        ref = await backend.start_kernel(request)
        try:
            async with backend.connect(ref) as kernel:
                yield kernel, backend, where
        finally:
            await backend.stop_kernel(ref)
            await backend.remove_workspace(where)


@pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs Linux")
async def test_a_sandboxed_kernel_elsewhere_is_the_only_way_to_its_files(
    tmp_path: Path, canary: Path, kernelspec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_PATH", str(kernelspec))
    (tmp_path / "root").mkdir()
    with jupyter_server(tmp_path / "root") as server:
        async with sandboxed(server, tmp_path / "state") as (kernel, backend, where):
            folder = server.root / "ci-tools" / where.session_id
            outcome = await run(
                kernel,
                f"import os\nos.symlink({str(canary)!r}, 'link')\n"
                f"os.symlink({str(canary.parent)!r}, 'folder')\n"
                "open('.hidden', 'w').write('h')\nopen('own', 'w').write('mine')\n"
                "print(os.getcwd(), os.environ['API_KEY'])",
            )
            place = kernel.workspace
            assert place is not None
            await place.write("made/new", chunked(b"from outside"))
            for path in ("link", "folder/one"):
                with pytest.raises(NotFoundError):
                    await place.stat(path)
                with pytest.raises(NotFoundError):
                    await place.delete(path)
            listed = [file.path for file in await place.list_files(limit=10)]
            seen = await run(kernel, "print(open('made/new').read())")

            assert outcome.text() == "/mnt/data of this session\n"
            assert await backend.open_workspace(where) is None
            assert place.root == "/mnt/data"
            assert listed == [".hidden", "made/new", "own"]
            assert seen.text() == "from outside\n"
            assert (folder / "link").is_symlink()
        assert not os.path.lexists(folder)
    assert_alive(canary)


@pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs Linux")
async def test_removing_a_folder_runs_nothing_of_it_outside_of_the_sandbox(
    tmp_path: Path, kernelspec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_PATH", str(kernelspec))
    (tmp_path / "root").mkdir()
    escaped = tmp_path / "escaped"
    planted = f"open({str(escaped)!r}, 'w').close()\nraise SystemExit"
    with jupyter_server(tmp_path / "root") as server:
        async with sandboxed(server, tmp_path / "state") as (kernel, _, where):
            folder = server.root / "ci-tools" / where.session_id
            for name in ("ipykernel_launcher", "ipykernel", "random"):
                await run(kernel, f"open({name + '.py'!r}, 'w').write({planted!r})")
            assert (folder / "ipykernel_launcher.py").exists()
        assert not folder.exists()
    assert not escaped.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs Linux")
async def test_a_gateway_with_our_sandbox_is_refused(
    tmp_path: Path, kernelspec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_PATH", str(kernelspec))
    (tmp_path / "root").mkdir()
    with kernel_gateway(tmp_path / "root") as server:
        with pytest.raises(KernelStartError, match="gateway"):
            async with sandboxed(server, tmp_path / "state"):
                pass
