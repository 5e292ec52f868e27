"""The embedded server with a sandbox: what code sees, what is refused, and what is said."""

import importlib.metadata
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from ci_tools import open_service
from ci_tools.errors import (
    BackendError,
    ConfigurationError,
    KernelDiedError,
    KernelStartError,
    ServerUnavailableError,
)
from ci_tools.kernel import KernelRequest, WorkspaceRequest
from ci_tools.models import ErrorOutput, KernelRef, RunStep, StreamOutput
from ci_tools.settings import Settings
from ci_tools.workspace import LocalWorkspace
from ci_tools_jupyter import JupyterBackend
from ci_tools_jupyter.sandbox import EmbeddedKernels
from ci_tools_kernels.quotas import Quotas
from tests.kernels.rig import follow, run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sandboxes need Linux")

MEBIBYTE = 1 << 20


def make_backend(state_dir: Path, **settings: object) -> JupyterBackend:
    values = {"state_dir": state_dir, "isolation": "auto", "kernel_preload": (), **settings}
    return JupyterBackend.from_settings(Settings.model_validate(values))


def new_request(kernelspec: str = "") -> KernelRequest:
    return KernelRequest(
        session_id=f"sess_{uuid4().hex}", server="embedded", kernelspec=kernelspec, epoch=1
    )


async def start(backend: JupyterBackend) -> KernelRef:
    return await backend.start_kernel(new_request())


@pytest.fixture(scope="module")
async def backend(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[JupyterBackend]:
    backend = make_backend(
        tmp_path_factory.mktemp("state"),
        kernel_environment={"API_KEY": "given by the operator"},
        kernel_disk=20 * MEBIBYTE,
    )
    async with backend.open():
        yield backend


async def test_code_sees_its_folder_and_nothing_of_the_service(backend: JupyterBackend) -> None:
    request = new_request()
    workspace = await backend.open_workspace(
        WorkspaceRequest(session_id=request.session_id, server="embedded")
    )
    assert isinstance(workspace, LocalWorkspace)
    ref = await backend.start_kernel(request)
    async with backend.connect(ref) as kernel:
        outcome = await run(
            kernel,
            "import os\nopen('/mnt/data/out.txt', 'w').write('hello')\n"
            "print(os.getcwd(), os.environ['API_KEY'])\n"
            f"print(os.path.exists({str(backend._state_dir)!r}))",
        )
    files = await workspace.list_files(limit=10)

    assert outcome.text() == "/mnt/data given by the operator\nFalse\n"
    assert workspace.root == "/mnt/data"
    assert [(file.path, file.size) for file in files] == [("out.txt", 5)]
    assert backend.isolation(ref.server) in ("namespaces", "bubblewrap")


async def test_other_kernelspecs_need_isolation_none(backend: JupyterBackend) -> None:
    specs = await backend.list_kernelspecs("embedded")

    assert [spec.name for spec in specs] == ["python3"]
    with pytest.raises(KernelStartError, match="CI_TOOLS_ISOLATION=none"):
        await backend.start_kernel(new_request("bash"))


async def test_a_kernel_that_is_ended_for_a_limit_says_so(backend: JupyterBackend) -> None:
    if Quotas().may_limit(str(backend._state_dir)):
        pytest.skip("a project quota holds the disk limit here, and no kernel is ended")
    async with backend.connect(await start(backend)) as kernel:
        execution = await kernel.execute(
            "import signal\n"
            "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
            "with open('/mnt/data/big', 'wb') as file:\n"
            "    while True:\n"
            "        try:\n"
            "            file.write(bytes(1 << 20)); file.flush()\n"
            "        except BaseException: pass",
            execution_id=uuid4().hex,
        )
        with pytest.raises(KernelDiedError, match="/mnt/data holds more than 20 MB"):
            await follow(execution)


async def test_an_error_for_want_of_space_says_how_much_there_is(backend: JupyterBackend) -> None:
    async with backend.connect(await start(backend)) as kernel:
        outcome = await run(kernel, "open('/tmp/full', 'wb').write(bytes(300 << 20))")

    error = next(event for event in outcome.events if isinstance(event, ErrorOutput))
    assert "No space left on device" in error.traceback
    assert "/mnt/data holds 20 MB and 100000 files" in error.traceback


async def test_a_machine_without_sandboxes_says_what_is_missing_and_the_way_out(
    tmp_path: Path,
) -> None:
    backend = make_backend(tmp_path, isolation="bubblewrap")
    async with backend.open():
        try:
            ref = await start(backend)
        except KernelStartError as error:
            assert "ubblewrap" in str(error)
            assert "CI_TOOLS_ISOLATION=none" in str(error)
        else:  # where it is installed, and the tests do not run as root
            assert backend.isolation(ref.server) == "bubblewrap"


async def test_an_interpreter_that_is_not_there_is_said(tmp_path: Path) -> None:
    backend = make_backend(tmp_path, kernel_python=tmp_path / "python")
    async with backend.open():
        with pytest.raises(ConfigurationError, match="CI_TOOLS_KERNEL_PYTHON"):
            await start(backend)


async def test_without_a_sandbox_kernels_run_on_the_chosen_interpreter_with_its_variables(
    tmp_path: Path,
) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nCHOSEN=this exec {sys.executable} "$@"\n')
    python.chmod(0o700)
    kernels = EmbeddedKernels(isolation="none", python=python, environment={"API_KEY": "given"})
    backend = JupyterBackend(state_dir=tmp_path, kernels=kernels)
    async with backend.open():
        ref = await start(backend)
        async with backend.connect(ref) as kernel:
            code = "import os, sys\nprint(os.environ['API_KEY'], os.environ['CHOSEN'], sys.argv)"
            outcome = await run(kernel, code)
        assert backend.isolation(ref.server) == "none"

    assert outcome.text().startswith("given this ")


async def test_an_environment_that_was_built_is_used(tmp_path: Path) -> None:
    python = tmp_path / "kernel-env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    python.parents[1].joinpath("ci-tools-kernel-environment.json").write_text("{}")

    said: list[str] = []
    found = await EmbeddedKernels(isolation="auto").find_python(tmp_path, report=said.append)

    assert found == str(python)
    assert said == ["It is out of date: run `ci-tools kernels install`."]


async def test_an_environment_that_cannot_be_built_is_said_with_the_reason(tmp_path: Path) -> None:
    kernels = EmbeddedKernels(isolation="auto", requirements=tmp_path / "none.txt")

    with pytest.raises(ServerUnavailableError, match=r"none\.txt.*CI_TOOLS_KERNEL_PYTHON"):
        await kernels.find_python(tmp_path, report=lambda _: None)


async def test_services_with_and_without_a_sandbox_do_not_share_sessions(
    backend: JupyterBackend,
) -> None:
    request = new_request()
    ref = await backend.start_kernel(request)
    other = make_backend(backend._state_dir, isolation="none")
    async with other.open():
        with pytest.raises(BackendError, match="CI_TOOLS_ISOLATION"):
            async with other.connect(ref):
                pass
        with pytest.raises(ConfigurationError, match="in a sandbox"):
            await other.start_kernel(new_request())
        await other.stop_kernel(ref)


def test_what_the_server_is_told_by_name_exists() -> None:
    (provisioner,) = importlib.metadata.entry_points(
        group="jupyter_client.kernel_provisioners", name="ci-tools-sandbox"
    )
    assert provisioner.module.startswith("ci_tools_kernels.")


async def test_one_sessions_network_and_variables_are_its_own(tmp_path: Path) -> None:
    settings = Settings(
        state_dir=tmp_path / "state",
        kernel_python=Path(sys.executable),
        kernel_preload=(),
        kernel_network_most="on",
    )
    networks = "import os\nprint(os.readlink('/proc/self/ns/net'), os.environ.get('TOKEN'))"
    async with open_service(settings) as service:
        usual = await service.create_session()
        chosen = await service.create_session(network="on", environment={"TOKEN": "for code only"})
        of_usual = await service.run_code(usual.id, networks)
        of_chosen = await service.run_code(chosen.id, networks)
        await service.restart_session(chosen.id)
        after = await service.run_code(chosen.id, networks)
        command = await service.run_command(chosen.id, "readlink /proc/self/ns/net; echo $TOKEN")

    own = os.readlink("/proc/self/ns/net")
    assert (usual.network, chosen.network) == ("none", "on")
    assert own not in to_text(of_usual) and to_text(of_usual).endswith("None\n")
    assert to_text(of_chosen) == to_text(after) == f"{own} ***\n"
    assert command.stdout == f"{own}\n***\n"


def to_text(step: RunStep) -> str:
    return "".join(output.text for output in step.outputs if isinstance(output, StreamOutput))
