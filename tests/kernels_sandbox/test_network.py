"""What a session with network can reach, and how it installs packages."""

import functools
import http.server
import os
import signal
import socket
import sys
import threading
import zipfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import pytest

from ci_tools_kernels import Policy, probe, write_kernelspec
from ci_tools_kernels.commands import CommandDone, run_command
from ci_tools_kernels.host import find_host
from ci_tools_kernels.inside.landlock import abi_version
from ci_tools_kernels.inside.relay import PORT
from tests.kernels_sandbox.rig import START_TIMEOUT, Session, open_session

METADATA = "Metadata-Version: 2.1\nName: small-package\nVersion: 1.0\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def write_package(folder: Path) -> None:
    with zipfile.ZipFile(folder / "small_package-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("small_package.py", "value = 42\n")
        wheel.writestr("small_package-1.0.dist-info/METADATA", METADATA)
        wheel.writestr("small_package-1.0.dist-info/WHEEL", WHEEL)
        wheel.writestr("small_package-1.0.dist-info/RECORD", "")


@pytest.fixture
def index(tmp_path: Path) -> Iterator[str]:
    """The address of a server on the machine's loopback with one package."""
    folder = tmp_path / "index"
    folder.mkdir()
    write_package(folder)
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
    report = probe(Policy(network="on"))

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


INNER = "127.0.0.2"
"""An address of this machine that stands for another one's: requests to it go to the proxy."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[int]:
    """The port of a server with one package, at `INNER` and at `localhost`."""
    folder = tmp_path / "site"
    folder.mkdir()
    write_package(folder)
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("0.0.0.0", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture
async def listed(site: int, tmp_path: Path) -> AsyncIterator[Session]:
    """A kernel that reaches a list of hosts: that site by its address and by a name."""
    hosts = (f"{INNER}:{site}", f"localhost:{site}")
    policy = Policy(preload=(), network="allowlist", hosts=hosts)
    write_kernelspec(tmp_path / "specs", name="listed", python=sys.executable, policy=policy)
    async with open_session(tmp_path / "specs", tmp_path / "mine", name="listed") as session:
        yield session


ASK = """
import http.client, socket
def ask(request):
    proxy = socket.create_connection(("127.0.0.1", {port}), 10)
    proxy.sendall(request)
    answer = http.client.HTTPResponse(proxy)
    try:
        answer.begin()
    except http.client.HTTPException:
        return "closed"
    return answer.status
"""


async def test_listed_host_is_reached_through_the_proxy(listed: Session, site: int) -> None:
    result = await listed.run(
        f"import urllib.request\nprint(urllib.request.urlopen('http://{INNER}:{site}/').status)"
    )
    tunnel = await listed.run(
        ASK.format(port=PORT)
        + f"print(ask(b'CONNECT {INNER}:{site} HTTP/1.1\\r\\nHost: {INNER}\\r\\n\\r\\n'))"
    )

    assert result.text == "200\n"
    assert tunnel.text == "200\n", tunnel.error


@pytest.mark.parametrize(
    ("target", "answer"),
    [
        ("example.org:443", 403),  # not listed
        ("localhost:{site}", 403),  # listed, and leads to this machine
        ("127.0.0.1:{site}", 403),
        ("[::ffff:127.0.0.2]:{site}", 403),
        ("0x7f000002:{site}", 403),
        ("127.2:{site}", 403),
        (INNER + ":{other}", 403),
    ],
)
async def test_other_hosts_are_refused_by_the_proxy(
    listed: Session, site: int, target: str, answer: int
) -> None:
    named = target.format(site=site, other=site + 1)
    result = await listed.run(
        ASK.format(port=PORT)
        + f"print(ask(b'CONNECT {named} HTTP/1.1\\r\\n\\r\\n'))\n"
        + f"print(ask(b'GET http://{named}/ HTTP/1.1\\r\\nHost: {INNER}:{site}\\r\\n\\r\\n'))"
    )

    assert str(answer) in result.text, result.error
    assert "200" not in result.text


PIPELINE = """
import socket

def get(host):
    return f"GET http://{{host}}/ HTTP/1.1\\r\\nHost: {{host}}\\r\\n\\r\\n".encode()

first, second = get("{listed}"), get("{other}")
tunnel = b"CONNECT {other} HTTP/1.1\\r\\nHost: {other}\\r\\n\\r\\n"
for further in (second, tunnel + second):
    for at_once in (True, False):
        received = b""
        with socket.create_connection(("127.0.0.1", {port}), 10) as proxy:
            proxy.settimeout(2)
            proxy.sendall(first + further if at_once else first)
            try:
                received = proxy.recv(65536)
                if not at_once:
                    proxy.sendall(further)
                while chunk := proxy.recv(65536):
                    received += chunk
            except OSError:
                pass
        print(b" 200 " in received, b" 418 " in received)
"""


async def test_second_request_of_a_connection_reaches_no_other_host(
    listed: Session, site: int
) -> None:
    seen: list[str] = []

    class Other(Quiet):
        def do_GET(self) -> None:
            seen.append(self.path)
            self.send_error(418)

    with http.server.ThreadingHTTPServer((INNER, 0), Other) as other:
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        result = await listed.run(
            PIPELINE.format(
                listed=f"{INNER}:{site}", other=f"{INNER}:{other.server_port}", port=PORT
            )
        )
        other.shutdown()
        thread.join()

    assert result.text.count("True False") >= 2, result.text + result.error
    assert " True" not in result.text
    assert seen == []


async def test_nothing_is_reached_past_the_proxy(listed: Session, site: int) -> None:
    result = await listed.run(
        "import socket\n"
        f"for address in ('{INNER}', '127.0.0.1', '8.8.8.8'):\n"
        "    try:\n"
        f"        socket.create_connection((address, {site}), 2)\n"
        "    except OSError as exc:\n"
        "        print(type(exc).__name__)\n"
        "try:\n"
        "    socket.getaddrinfo('pypi.org', 443)\n"
        "except OSError as exc:\n"
        "    print(type(exc).__name__)"
    )

    assert result.text == "ConnectionRefusedError\n" * 2 + "OSError\ngaierror\n"


async def test_package_is_installed_through_the_proxy(listed: Session, site: int) -> None:
    installed = await listed.run(
        f"%pip install --no-index --find-links http://{INNER}:{site}/"
        f" --trusted-host {INNER} small-package",
        timeout=60,
    )
    result = await listed.run("import small_package\nprint(small_package.value)")
    refused = await listed.run("%pip install something-else", timeout=60)

    assert result.text == "42\n", installed.text
    assert f"This session reaches these hosts only: {INNER}:{site}" in refused.text


async def test_session_without_network_says_why_nothing_is_installed(session: Session) -> None:
    result = await session.run("%pip install small-package")

    assert "This session has no network" in result.text


async def test_choice_for_one_kernel_changes_its_network_and_variables(
    kernelspecs: Path, tmp_path: Path
) -> None:
    choice = {"network": "on", "environment": {"TOLD": "to this one"}}
    async with open_session(kernelspecs, tmp_path / "mine", choice=choice) as chosen:
        first = await chosen.run("import os, socket\nprint(os.environ['TOLD'])")
        command = await run_shell(chosen, "echo $TOLD")
        await chosen.manager.restart_kernel(now=True)
        await chosen.client.wait_for_ready(timeout=START_TIMEOUT)
        again = await chosen.run("import os\nprint(os.environ['TOLD'])")
        network = chosen.provisioner.policy.network

    assert first.text == again.text == "to this one\n"
    assert command == "to this one\n"
    assert network == "on"


async def test_proxy_that_was_killed_is_replaced_for_running_sessions(
    listed: Session, site: int, tmp_path: Path
) -> None:
    ask = f"import urllib.request\nprint(urllib.request.urlopen('http://{INNER}:{site}/').status)"
    proxies = find_host().proxies
    hosts = listed.provisioner.policy.hosts
    os.kill(proxies.find_process(hosts), signal.SIGKILL)
    with anyio.fail_after(START_TIMEOUT):
        while proxies.find_process(hosts):  # it takes a moment to be gone
            await anyio.sleep(0.01)
    specs = tmp_path / "specs"
    async with open_session(specs, tmp_path / "another", name="listed") as another:
        in_new = await another.run(ask)
    in_old = await listed.run(ask)

    assert in_new.text == "200\n", in_new.error
    assert in_old.text == "200\n", in_old.error
