"""Shell commands and listings of variables beside a kernel, in every kind of place."""

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import anyio
import pytest

from ci_tools.errors import BackendError, KernelLostError
from ci_tools.kernel import CommandRequest, KernelRequest
from ci_tools.models import CommandDone, CommandEvent, CommandOutput, KernelRef, Variable
from ci_tools.testing import FakeBackend
from ci_tools_jupyter import JupyterBackend
from ci_tools_jupyter.sandbox import EmbeddedKernels
from ci_tools_kernels import Policy, write_kernelspec
from tests.kernels.rig import DEADLINE, Place, ServerProcess, jupyter_server, run, wait_for_text

VIA = {
    "fake": "process",
    "embedded": "process",
    "sandboxed": "sandbox",
    "remote": "second_kernel",
    "extended": "sandbox",
    "gateway": "second_kernel",
}


@pytest.fixture(scope="module", params=list(VIA))
async def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Place]:
    """Each kind of place where kernels run, the embedded server with and without a sandbox."""
    name: str = request.param
    state: Path = tmp_path_factory.mktemp(f"a {name}")  # with a blank, as on macOS
    if name == "fake":
        fake = FakeBackend(state)
        async with fake.open():
            yield Place(name=name, backend=fake, server="embedded")
        return
    if name == "sandboxed" and sys.platform != "linux":
        pytest.skip("sandboxed kernels need Linux")
    if name == "extended" and sys.platform != "linux":
        pytest.skip("sandboxed kernels need Linux")
    fixture = {"remote": "stock_server", "gateway": "gateway", "extended": "extended"}.get(name)
    remotes = {name: request.getfixturevalue(fixture).to_profile()} if fixture else {}
    kernels = EmbeddedKernels(
        isolation="auto" if name == "sandboxed" else "none",
        python=Path(sys.executable),
        policy={"preload": []},
    )
    backend = JupyterBackend(state_dir=state, remotes=remotes, kernels=kernels)
    async with backend.open():
        yield Place(name=name, backend=backend, server=name if fixture else "embedded")


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A Jupyter Server with our kernelspec, which is its default, and our extension."""
    root = tmp_path_factory.mktemp("extended")
    write_kernelspec(
        root / ".share" / "jupyter" / "kernels",
        python=sys.executable,
        policy=Policy(preload=()),
    )
    with jupyter_server(
        root,
        "--ServerApp.jpserver_extensions={'ci_tools_kernels.extension': True}",
        "--MappingKernelManager.default_kernel_name=ci-tools-python",
    ) as server:
        yield server


class Session:
    """A kernel, and what is asked beside it."""

    def __init__(self, place: Place, ref: KernelRef, session_id: str) -> None:
        self.place = place
        self.ref = ref
        self._session_id = session_id

    @asynccontextmanager
    async def stream(
        self, command: str, *, cwd: str = "", timeout: float = 30.0, output_limit: int = 100_000
    ) -> AsyncIterator[AsyncIterator[CommandEvent]]:
        """Run a command and yield its events."""
        request = CommandRequest(
            session_id=self._session_id,
            server=self.place.server,
            command=command,
            cwd=cwd,
            timeout=timeout,
            output_limit=output_limit,
        )
        async with self.place.backend.run_command(self.ref, request) as events:
            yield events

    async def run(
        self, command: str, *, cwd: str = "", timeout: float = 30.0, output_limit: int = 100_000
    ) -> tuple[str, str, CommandDone]:
        """Run a command to its end; return what it wrote, and how it ended."""
        texts = {"stdout": "", "stderr": ""}
        with anyio.fail_after(DEADLINE):
            async with self.stream(
                command, cwd=cwd, timeout=timeout, output_limit=output_limit
            ) as events:
                async for event in events:
                    if isinstance(event, CommandDone):
                        return texts["stdout"], texts["stderr"], event
                    texts[event.name] += event.text
        raise AssertionError("the last event is missing")


@pytest.fixture(scope="module")
async def session(place: Place) -> AsyncIterator[Session]:
    """A kernel that the tests share."""
    session_id = f"sess_{uuid4().hex}"
    ref = await place.backend.start_kernel(
        KernelRequest(session_id=session_id, server=place.server, kernelspec="", epoch=1)
    )
    yield Session(place, ref, session_id)
    await place.backend.stop_kernel(ref)


async def test_command_beside_a_kernel_tells_its_output_and_its_end(session: Session) -> None:
    out, err, done = await session.run("echo 'out é 🎈'; echo err >&2; exit 3")

    assert (out, err) == ("out é 🎈\n", "err\n")
    assert done == CommandDone(
        exit_status=3,
        timed_out=False,
        truncated=False,
        via=VIA[session.place.name],  # type: ignore[arg-type]
    )


async def test_command_shares_the_folder_with_the_code_and_says_mnt_data(session: Session) -> None:
    async with session.place.backend.connect(session.ref) as kernel:
        await run(kernel, "import os; os.makedirs('sub', exist_ok=True); open('a','w').write('A')")

    out, _, _ = await session.run(
        "cat /mnt/data/a '/mnt/data/a' \"/mnt/data/a\"; pwd; echo new > b.txt"
    )
    below, _, _ = await session.run("pwd", cwd="sub")

    assert (out, below) == ("AAA/mnt/data\n", "/mnt/data/sub\n")
    async with session.place.backend.connect(session.ref) as kernel:
        assert (await run(kernel, "open('b.txt').read()")).result == repr("new\n")


async def test_command_does_not_wait_for_a_busy_kernel(session: Session) -> None:
    async with session.place.backend.connect(session.ref) as kernel:
        code = "import os, time\nprint('busy', flush=True)\nwhile not os.path.exists('go'): "
        execution = await kernel.execute(f"{code}time.sleep(0.01)", execution_id=uuid4().hex)
        await wait_for_text(execution, "busy")

        out, _, _ = await session.run("touch go; echo done")

        assert out == "done\n"
        await wait_until_done(execution)
    await session.run("rm go")


async def wait_until_done(execution: object) -> None:
    from tests.kernels.rig import follow

    await follow(execution)  # type: ignore[arg-type]


async def test_command_past_its_time_is_ended(session: Session) -> None:
    out, _, done = await session.run("echo begun; sleep 300", timeout=1.0)

    assert out == "begun\n"
    assert done.timed_out
    assert done.exit_status != 0


async def test_end_of_a_command_is_that_of_its_children(session: Session) -> None:
    command = "(sleep 300 & echo $! > child; wait) & sleep 300 & echo $! > sibling; wait"

    _, _, done = await session.run(command, timeout=1.0)

    assert done.timed_out
    with anyio.fail_after(DEADLINE):
        for name in ("child", "sibling"):
            while (await session.run(f"kill -0 $(cat {name})"))[2].exit_status == 0:
                await anyio.sleep(0.05)


async def test_output_past_the_limit_is_dropped(session: Session) -> None:
    out, _, done = await session.run("yes | head -c 300000", output_limit=1000)

    assert out == "y\n" * 500
    assert done.truncated
    assert done.exit_status == 0


async def test_leaving_early_ends_the_command(session: Session) -> None:
    command = "echo $$ > pid; echo begun; while true; do date > tick; sleep 0.02; done"
    with anyio.fail_after(DEADLINE):
        async with session.stream(command) as events:
            async for event in events:
                assert event == CommandOutput(name="stdout", text="begun\n")
                break

        while (await session.run("kill -0 $(cat pid)"))[2].exit_status == 0:
            await anyio.sleep(0.05)


async def test_command_beside_a_kernel_that_is_gone_is_refused(session: Session) -> None:
    gone = KernelRef(
        server=session.ref.server,
        kernel_id=str(uuid4()),
        channel_id="x",
        kernelspec="python3",
        language="python",
    )
    other = Session(session.place, gone, "sess_gone")

    if VIA[session.place.name] == "second_kernel":
        pytest.skip("a second kernel needs no first one")
    with pytest.raises(KernelLostError):
        await other.run("true")


async def test_command_in_a_folder_that_is_missing_fails(session: Session) -> None:
    try:
        _, _, done = await session.run("true", cwd="missing")
    except BackendError:
        return
    assert done.exit_status != 0


async def test_variables_are_listed_without_a_trace(session: Session) -> None:
    async with session.place.backend.connect(session.ref) as kernel:
        before = await run(
            kernel, "import math\n_hidden = 1\nn = 3\nwords = ['a', 'b']\ndef twice(x): ...\n"
        )

        found = await kernel.list_variables()

        after = await run(kernel, "n")
    by_name = {variable.name: variable for variable in found}
    assert by_name["n"] == Variable(name="n", type="int", detail="3")
    assert by_name["words"] == Variable(name="words", type="list", detail="length 2")
    assert by_name["twice"] == Variable(name="twice", type="function", detail="")
    assert not {"math", "_hidden", "In", "Out", "exit"} & by_name.keys()
    assert [variable.name for variable in found] == sorted(by_name)
    assert before.done.execution_count is not None
    assert after.done.execution_count == before.done.execution_count + 1
