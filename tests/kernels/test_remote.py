"""What differs from server to server: kernelspecs, protocols, files."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from ci_tools.errors import BackendError, ConfigurationError, InvalidPathError, KernelStartError
from ci_tools.kernel import KernelRequest, WorkspaceRequest
from ci_tools.settings import Settings
from ci_tools_jupyter import JupyterBackend
from ci_tools_jupyter.sandbox import EmbeddedKernels
from tests.kernels.rig import (
    TOKEN,
    ServerProcess,
    chunked,
    follow,
    kernel_gateway,
    run,
    wait_for_text,
)


@pytest.fixture(scope="module")
def bash_prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which Jupyter finds a kernel for bash."""
    prefix = tmp_path_factory.mktemp("prefix")
    command = [sys.executable, "-m", "bash_kernel.install", "--prefix", str(prefix)]
    subprocess.run(command, check=True, capture_output=True)
    return prefix / "share" / "jupyter"


@pytest.fixture(scope="module")
def old_gateway(
    tmp_path_factory: pytest.TempPathFactory, bash_prefix: Path
) -> Iterator[ServerProcess]:
    """A gateway with a kernel for bash, that speaks as Enterprise Gateway 3 does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(bash_prefix))
        option = "--ZMQChannelsWebsocketConnection.kernel_ws_protocol="
        with kernel_gateway(tmp_path_factory.mktemp("bash"), option) as server:
            yield server


def request(server: str, kernelspec: str = "") -> KernelRequest:
    return KernelRequest(
        session_id=f"sess_{uuid4().hex}", server=server, kernelspec=kernelspec, epoch=1
    )


async def test_another_language_runs_as_well(
    tmp_path: Path, bash_prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_PATH", str(bash_prefix))
    backend = JupyterBackend(state_dir=tmp_path, kernels=EmbeddedKernels(isolation="none"))
    async with backend.open():
        specs = await backend.list_kernelspecs("embedded")
        wanted = request("embedded", "bash")
        ref = await backend.start_kernel(wanted)
        async with backend.connect(ref) as kernel:
            place = await backend.open_workspace(
                WorkspaceRequest(session_id=wanted.session_id, server="embedded")
            )
            assert place is not None
            await place.write("in.txt", chunked(b"from outside"))
            first = await run(kernel, "x=5; cat in.txt")
            second = await run(kernel, "echo $x; pwd")
            failed = await run(kernel, "false")
            execution = await kernel.execute("echo busy; sleep 60", execution_id=uuid4().hex)
            await wait_for_text(execution, "busy")
            await kernel.interrupt()
            await follow(execution)
            after = await run(kernel, "echo after")
        async with backend.connect(ref) as kernel:
            again = await run(kernel, "echo $x")

    assert [spec.name for spec in specs] == ["python3", "bash"]
    assert ref.language == "bash"
    assert "from outside" in first.text()
    assert second.text().split() == ["5", place.root]
    assert failed.done.status == "error"
    assert "after" in after.text()
    assert again.text().strip() == "5"


async def test_a_gateway_says_what_another_language_lacks(
    tmp_path: Path, old_gateway: ServerProcess
) -> None:
    backend = JupyterBackend(state_dir=tmp_path, remotes={"gateway": old_gateway.to_profile()})
    async with backend.open():
        ref = await backend.start_kernel(request("gateway", "bash"))
        async with backend.connect(ref) as kernel:
            outcome = await run(kernel, "echo hello")
            assert kernel.workspace is not None
            with pytest.raises(BackendError, match="Python kernel"):
                await kernel.workspace.list_files(limit=1)
        await backend.stop_kernel(ref)

    assert outcome.text() == "hello\n"


async def test_variables_of_a_session_reach_python_kernels_elsewhere_and_no_others(
    tmp_path: Path, old_gateway: ServerProcess, stock_server: ServerProcess
) -> None:
    backend = JupyterBackend(
        state_dir=tmp_path,
        remotes={"stock": stock_server.to_profile(), "gateway": old_gateway.to_profile()},
    )
    seen = []
    async with backend.open():
        for server in ("stock", "gateway"):
            wanted = replace(request(server, "python3"), environment={"TOKEN": 'it\'s\n"one"'})
            ref = await backend.start_kernel(wanted)
            async with backend.connect(ref) as kernel:
                seen.append((await run(kernel, "import os; os.environ['TOKEN']")).result)
            await backend.stop_kernel(ref)
        with pytest.raises(KernelStartError, match="variables"):
            await backend.start_kernel(
                replace(request("gateway", "bash"), environment={"TOKEN": "x"})
            )

    assert seen == [repr('it\'s\n"one"')] * 2


async def test_a_gateway_with_only_the_older_protocol_works(
    tmp_path: Path, old_gateway: ServerProcess
) -> None:
    content = bytes(range(256)) * 20_000  # 5 MB: two blocks
    backend = JupyterBackend(state_dir=tmp_path, remotes={"old": old_gateway.to_profile()})
    async with backend.open():
        ref = await backend.start_kernel(request("old"))
        async with backend.connect(ref) as kernel:
            assert kernel.workspace is not None
            await kernel.workspace.write("f", chunked(content))
            async with kernel.workspace.open_file("f") as chunks:
                received = b"".join([chunk async for chunk in chunks])
            outcome = await run(kernel, "print('é')\n1 + 1")
        await backend.stop_kernel(ref)

    assert outcome.text() == "é\n"
    assert outcome.result == "2"
    assert [file.path for file in outcome.done.files or ()] == ["f"]
    assert received == content


async def test_settings_name_the_servers(tmp_path: Path, stock_server: ServerProcess) -> None:
    settings = Settings.model_validate(
        {
            "state_dir": tmp_path,
            "jupyter_url": stock_server.url.rstrip("/"),
            "jupyter_token": TOKEN,
            "jupyter_servers": {"other": {"url": "http://127.0.0.1:9/"}},
        }
    )
    backend = JupyterBackend.from_settings(settings)
    async with backend.open():
        await backend.warm_up()
        ref = await backend.start_kernel(request("default"))
        async with backend.connect(ref) as kernel:
            outcome = await run(kernel, "1 + 1")
        await backend.stop_kernel(ref)

    assert outcome.result == "2"
    assert backend.servers() == ("default", "other")
    assert not (tmp_path / "run").exists()


async def test_without_a_default_server_the_embedded_one_is_first(tmp_path: Path) -> None:
    settings = Settings.model_validate(
        {"state_dir": tmp_path, "jupyter_servers": {"other": {"url": "http://127.0.0.1:9/"}}}
    )
    backend = JupyterBackend.from_settings(settings)

    assert backend.servers() == ("embedded", "other")
    assert backend.isolation("embedded") == settings.isolation
    assert backend.isolation("other") == "remote"


async def test_a_server_that_is_not_in_the_settings_is_refused(tmp_path: Path) -> None:
    backend = JupyterBackend(state_dir=tmp_path)
    async with backend.open():
        with pytest.raises(ConfigurationError):
            await backend.start_kernel(request("http://evil.example/"))


async def test_hidden_files_are_refused_in_so_many_words(
    tmp_path: Path, stock_server: ServerProcess
) -> None:
    backend = JupyterBackend(state_dir=tmp_path, remotes={"stock": stock_server.to_profile()})
    async with backend.open():
        where = WorkspaceRequest(session_id=f"sess_{uuid4().hex}", server="stock")
        workspace = await backend.open_workspace(where)
        assert workspace is not None
        for path in (".hidden", ".folder/file", "folder/.hidden"):
            with pytest.raises(InvalidPathError, match="hidden"):
                await workspace.write(path, chunked(b"x"))
            with pytest.raises(InvalidPathError, match="hidden"):
                await workspace.stat(path)
        await backend.remove_workspace(where)


async def test_a_session_survives_the_service_on_a_remote_server(
    tmp_path: Path, stock_server: ServerProcess
) -> None:
    remotes = {"stock": stock_server.to_profile()}
    wanted = request("stock")
    backend = JupyterBackend(state_dir=tmp_path, remotes=remotes)
    async with backend.open():
        ref = await backend.start_kernel(wanted)
        async with backend.connect(ref) as kernel:
            await run(kernel, "x = 'still here'\nopen('kept.txt', 'w').write(x)")

    backend = JupyterBackend(state_dir=tmp_path, remotes=remotes)
    async with backend.open():
        place = await backend.open_workspace(
            WorkspaceRequest(session_id=wanted.session_id, server="stock")
        )
        async with backend.connect(ref) as kernel:
            outcome = await run(kernel, "import os\nprint(x, os.getcwd())")
        await backend.stop_kernel(ref)

    assert place is not None
    assert outcome.text() == f"still here {place.root}\n"
    assert [file.path for file in outcome.done.files or ()] == ["kept.txt"]


async def test_code_cannot_break_what_we_put_into_its_kernel_without_being_noticed(
    tmp_path: Path, stock_server: ServerProcess
) -> None:
    backend = JupyterBackend(state_dir=tmp_path, remotes={"stock": stock_server.to_profile()})
    async with backend.open():
        ref = await backend.start_kernel(request("stock"))
        async with backend.connect(ref) as kernel:
            names = await run(kernel, "print([name for name in dir() if 'ci_tools' in name])")
            broken = await run(kernel, "import sys\ndel sys.modules['_ci_tools']\n1")
        await backend.stop_kernel(ref)

    assert names.text() == "[]\n"
    assert broken.result == "1"
    assert broken.done.files is None
