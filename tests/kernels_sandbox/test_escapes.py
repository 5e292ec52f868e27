"""Sandboxed code reaches nothing of the machine, and the same attempts work outside of it."""

import hashlib
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


SCAN = """
import hashlib, re

def count(hidden, digest):
    # The first half is made here, and in memory so; the other is known by its digest only.
    first, found = bytes(byte ^ 85 for byte in hidden), 0
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for line in maps:
            start, end, mode = re.match("([0-9a-f]+)-([0-9a-f]+) (r?)", line).groups()
            if not mode or "[v" in line:
                continue
            memory.seek(int(start, 16))
            try:
                content = memory.read(int(end, 16) - int(start, 16))
            except OSError:
                continue
            for match in re.finditer(first, content):
                rest = content[match.end() : match.end() + len(first)]
                found += hashlib.sha256(rest).hexdigest() == digest
    return found
"""


def search(secret: str) -> str:
    """Return code that prints how often a secret is in memory, and does not hold it itself."""
    half = len(secret) // 2
    hidden = bytes(byte ^ 85 for byte in secret[:half].encode())
    digest = hashlib.sha256(secret[half : 2 * half].encode()).hexdigest()
    return f"{SCAN}\nprint(count({hidden!r}, {digest!r}))"


async def test_secrets_of_a_session_are_not_in_the_memory_of_others(
    kernelspecs: Path, tmp_path: Path
) -> None:
    secret = uuid4().hex * 3
    choice = {"environment": {"API_KEY": secret}}
    async with open_session(kernelspecs, tmp_path / "mine", choice=choice) as mine:
        key = mine.manager.session.key.decode()
        own = [(await mine.run(search(text))).text for text in (secret, key)]
        for number in range(3):
            async with open_session(kernelspecs, tmp_path / f"other{number}") as other:
                found = [(await other.run(search(text))).text for text in (secret, key)]

                assert found == ["0\n", "0\n"]

    assert all(int(number) > 0 for number in own)
