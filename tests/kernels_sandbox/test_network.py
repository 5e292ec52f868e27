"""What a session with network can reach, and how it installs packages."""

import functools
import http.server
import socket
import threading
import zipfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from ci_tools_kernels import Policy, probe
from ci_tools_kernels.commands import CommandDone, run_command
from ci_tools_kernels.inside.landlock import abi_version
from tests.kernels_sandbox.rig import START_TIMEOUT, Session, open_session

METADATA = "Metadata-Version: 2.1\nName: small-package\nVersion: 1.0\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def index(tmp_path: Path) -> Iterator[str]:
    """The address of a server on the machine's loopback with one package."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "small_package-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("small_package.py", "value = 42\n")
        wheel.writestr("small_package-1.0.dist-info/METADATA", METADATA)
        wheel.writestr("small_package-1.0.dist-info/WHEEL", WHEEL)
        wheel.writestr("small_package-1.0.dist-info/RECORD", "")
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture
async def online(kernelspecs: Path, tmp_path: Path) -> AsyncIterator[Session]:
    """A kernel with the machine's network."""
    async with open_session(kernelspecs, tmp_path / "mine", name="online") as session:
        yield session


async def run_shell(session: Session, command: str) -> str:
    text = ""
    env = session.provisioner.command_environment()
    async with run_command(session.sandbox, ["/bin/sh", "-c", command], env=env) as events:
        async for event in events:
            text += "" if isinstance(event, CommandDone) else event.text
    return text


async def test_network_includes_the_machines_loopback(online: Session, index: str) -> None:
    result = await online.run(
        f"import urllib.request\nprint(urllib.request.urlopen('{index}').status)"
    )

    assert result.text == "200\n"


def test_report_says_that_the_network_is_the_machines() -> None:
    report = probe(Policy(network=True))

    held = {item.limit: item.mechanism for item in report.mechanisms}
    assert report.isolation is None or held["network"] == "none"


async def test_network_gives_no_right_over_it(online: Session) -> None:
    result = await online.run(
        "import socket\n"
        "for kind in (socket.AF_PACKET, socket.AF_INET):\n"
        "    try:\n"
        "        socket.socket(kind, socket.SOCK_RAW, 1)\n"
        "    except OSError:\n"
        "        print('refused')"
    )

    assert result.text == "refused\n" * 2


@pytest.mark.skipif(abi_version() < 6, reason="Landlock is too old here")
async def test_network_includes_no_abstract_socket(online: Session) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0ci-tools-test-network")
        listener.listen()
        result = await online.run(
            "import socket\nsocket.socket(socket.AF_UNIX).connect('\\0ci-tools-test-network')"
        )

    assert "PermissionError" in result.error


async def test_installed_package_survives_a_restart(online: Session, index: str) -> None:
    installed = await online.run(
        f"%pip install --no-index --find-links {index} small-package", timeout=60
    )
    first = await online.run("import small_package\nprint(small_package.value)")
    in_shell = await run_shell(online, "python -c 'import small_package; print(1)'")
    await online.manager.restart_kernel(now=True)
    await online.client.wait_for_ready(timeout=START_TIMEOUT)
    again = await online.run("import small_package\nprint(small_package.__file__)")

    assert first.text == "42\n", installed.text
    assert in_shell == "1\n"
    assert again.text.startswith("/mnt/data/.packages/")


async def test_package_that_is_there_is_not_installed_again(online: Session) -> None:
    result = await online.run("%pip install --no-index ipykernel", timeout=60)

    assert "already satisfied" in result.text
    assert not list(online.folder.glob(".packages/**/ipykernel"))


async def test_shell_command_says_that_there_is_no_network(session: Session) -> None:
    text = await run_shell(session, "python -m pip install small-package 2>&1")

    assert "this-session-has-no-network" in text
