"""Sandboxed code reaches nothing of the machine, and the same attempts work outside of it."""

import os
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from ci_tools_kernels.bubblewrap import find_bubblewrap
from tests.kernels_sandbox.escapes import ATTEMPTS, PRELUDE
from tests.kernels_sandbox.rig import Session, is_root, open_session


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Real things that code might want to reach."""
    host = tmp_path_factory.mktemp("host")
    secret = host / "secret.txt"
    secret.write_text("do not read")
    other = tmp_path_factory.getbasetemp() / "sessions" / "other"
    other.mkdir(parents=True)
    (other / "secret.txt").write_text("do not read")
    abstract = uuid4().hex
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as unix,
        socket.socket(socket.AF_UNIX) as hidden,
        subprocess.Popen(["sleep", "600"], env={"CI_TOOLS_TEST_SECRET": "hunter2"}) as service,
    ):
        unix_path = f"/tmp/ci-tools-test-{abstract[:8]}"
        unix.bind(unix_path)
        unix.listen()
        hidden.bind(f"\0{abstract}")
        hidden.listen()
        x86 = os.uname().machine == "x86_64"
        try:
            yield {
                "host_file": secret,
                "host_folder": host,
                "host_pid": service.pid,
                "other_folder": other,
                "tcp_port": tcp.getsockname()[1],
                "unix_path": unix_path,
                "abstract_name": abstract,
                "keyctl": 250 if x86 else 219,
                "bpf": 321 if x86 else 280,
                "perf": 298 if x86 else 241,
            }
        finally:
            os.unlink(unix_path)
            service.kill()


async def outcomes(session: Session, machine: dict[str, Any], data: str) -> dict[str, str]:
    """Make every attempt; return what each printed."""
    found = {}
    for attempt in ATTEMPTS:
        code = PRELUDE + attempt.code.format(**machine, data=data)
        result = await session.run(code)
        found[attempt.name] = result.text or result.error
    return found


@pytest.fixture(params=["sandbox", "bubblewrap"])
async def sandboxed(
    request: pytest.FixtureRequest,
    kernelspecs: Path,
    machine: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Session]:
    """A sandboxed kernel beside another session, of a service that has a secret."""
    if request.param == "bubblewrap" and (is_root() or find_bubblewrap() is None):
        pytest.skip("bubblewrap is not installed, or refused because this is root")
    monkeypatch.setenv("CI_TOOLS_TEST_SECRET", "hunter2")
    folder = machine["other_folder"].parent / f"mine-{request.param}"
    async with open_session(kernelspecs, folder, name=request.param) as session:
        yield session


async def test_no_attempt_to_escape_succeeds(sandboxed: Session, machine: dict[str, Any]) -> None:
    found = await outcomes(sandboxed, machine, "/mnt/data")

    assert {name: text for name, text in found.items() if not text.startswith("held")} == {}


async def test_the_same_attempts_succeed_without_the_sandbox(
    kernelspecs: Path, machine: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI_TOOLS_TEST_SECRET", "hunter2")
    mine = machine["other_folder"].parent / "stock"
    async with open_session(kernelspecs, mine, name="stock") as session:
        found = {}
        for attempt in ATTEMPTS:
            if attempt.works_outside:
                code = PRELUDE + attempt.code.format(**machine, data=mine)
                # Some attempts change the process that makes them: each gets its own.
                found[attempt.name] = (await session.run(_in_a_child(code))).text

    assert {name: text for name, text in found.items() if not text.startswith("ESCAPED")} == {}


def _in_a_child(code: str) -> str:
    return (
        "import subprocess, sys\n"
        f"done = subprocess.run([sys.executable, '-c', {code!r}], capture_output=True, text=True)\n"
        "print(done.stdout or done.stderr)"
    )


async def test_code_can_use_its_own_folder(sandboxed: Session) -> None:
    result = await sandboxed.run(
        "import os\nopen('a.txt', 'w').write('hello')\nprint(os.getcwd(), os.getuid())"
    )

    assert result.text == "/mnt/data 1000\n"
    assert (sandboxed.folder / "a.txt").read_text() == "hello"
    assert (sandboxed.folder / "a.txt").stat().st_uid == os.geteuid()
