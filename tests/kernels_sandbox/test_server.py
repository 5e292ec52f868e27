"""An ordinary Jupyter Server with the kernelspec and the extension."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from ci_tools_kernels import Limits, Policy
from ci_tools_kernels.kernelspec import write_kernelspec

TOKEN = "test"
START_TIMEOUT = 60.0


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[httpx2.AsyncClient]:
    """A Jupyter Server on a unix socket, with one session's folder `mine`."""
    root = tmp_path / "root"
    await anyio.Path(root / "mine").mkdir(parents=True)
    write_kernelspec(
        tmp_path / "share" / "kernels",
        python=sys.executable,
        policy=Policy(preload=(), pool=1, limits=Limits(processes=100)),
    )
    socket = tmp_path / "server.sock"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "jupyter_server", f"--ServerApp.sock={socket}"),
            *(f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={root}"),
            *("--ServerApp.allow_root=True", "--ServerApp.log_level=ERROR"),
            "--ServerApp.jpserver_extensions={'ci_tools_kernels.extension': True}",
        ],
        env={
            **os.environ,
            "JUPYTER_PATH": str(tmp_path / "share"),
            "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
            "JUPYTER_CONFIG_DIR": str(tmp_path / "config"),
        },
    )
    try:
        transport = httpx2.AsyncHTTPTransport(uds=str(socket))
        async with httpx2.AsyncClient(
            transport=transport,
            base_url="http://localhost",
            headers={"Authorization": f"token {TOKEN}"},
            timeout=30,
        ) as client:
            with anyio.fail_after(START_TIMEOUT):
                while not await answers(client):
                    await anyio.sleep(0.05)
            yield client
    finally:
        process.terminate()
        process.wait(timeout=10)


async def answers(server: httpx2.AsyncClient) -> bool:
    try:
        return (await server.get("/api")).is_success
    except httpx2.TransportError:
        return False


async def start_kernel(server: httpx2.AsyncClient) -> str:
    answer = await server.post("/api/kernels", json={"name": "ci-tools-python", "path": "mine"})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def run_command(server: httpx2.AsyncClient, kernel: str, **body: Any) -> list[dict[str, Any]]:
    answer = await server.post(f"/ci-tools/api/kernels/{kernel}/commands", json=body)
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


async def test_server_runs_commands_in_the_sandbox(
    server: httpx2.AsyncClient, tmp_path: Path
) -> None:
    (tmp_path / "root" / "mine" / "a.txt").write_text("hello")
    kernel = await start_kernel(server)

    events = await run_command(server, kernel, command="cat a.txt; pwd; exit 4")
    listed = await run_command(server, kernel, command=f"ls {tmp_path}")
    described = (await server.get(f"/ci-tools/api/kernels/{kernel}")).json()

    assert "".join(event.get("text", "") for event in events) == "hello/mnt/data\n"
    assert events[-1] == {"exit_status": 4, "timed_out": False, "truncated": False}
    assert listed[-1]["exit_status"] != 0
    assert described["isolation"] == "namespaces"
    assert described["limits"]["processes"] == 100


async def test_commands_need_the_token_and_a_kernel(server: httpx2.AsyncClient) -> None:
    kernel = await start_kernel(server)
    path = f"/ci-tools/api/kernels/{kernel}/commands"

    anonymous = await server.post(path, json={"command": "id"}, headers={"Authorization": ""})
    unknown = await server.post("/ci-tools/api/kernels/none/commands", json={"command": "id"})
    empty = await server.post(path, json={})

    assert anonymous.status_code == 403
    assert unknown.status_code == 404
    assert empty.status_code == 400


async def test_server_follows_no_link_out_of_a_session(
    server: httpx2.AsyncClient, tmp_path: Path
) -> None:
    (tmp_path / "root" / "other").mkdir()
    secret = tmp_path / "root" / "other" / "secret.txt"
    secret.write_text("do not read")
    kernel = await start_kernel(server)
    await run_command(
        server,
        kernel,
        command=f"ln -s {secret} a; ln -s ../other/secret.txt b; ln -s {tmp_path} c",
    )

    answers = [
        (await server.get(path)).status_code
        for path in (
            "/files/mine/a",
            "/files/mine/b",
            "/files/mine/c/root/other/secret.txt",
            "/api/contents/mine/a",
            "/api/contents/mine/b",
        )
    ]

    assert set(answers) <= {403, 404}


async def test_checkpoints_follow_no_link_out_of_a_session(
    server: httpx2.AsyncClient, tmp_path: Path
) -> None:
    canary = tmp_path / "canaries" / "a-checkpoint.txt"
    canary.parent.mkdir()
    canary.write_text("alive")
    kernel = await start_kernel(server)
    await run_command(
        server,
        kernel,
        command="mkdir -p one two/.ipynb_checkpoints;"
        f" ln -s {canary.parent} one/.ipynb_checkpoints;"
        f" ln -s {canary} two/.ipynb_checkpoints/a-checkpoint.txt; touch one/a.txt two/a.txt",
    )

    made = [
        (await server.post(f"/api/contents/mine/{name}/a.txt/checkpoints")).status_code
        for name in ("one", "two")
    ]
    for name in ("one", "two"):
        await server.delete(f"/api/contents/mine/{name}/a.txt")

    assert made == [404, 404]
    assert canary.read_text() == "alive"


async def test_kernel_in_the_servers_root_sees_no_session(
    server: httpx2.AsyncClient, tmp_path: Path
) -> None:
    answer = await server.post("/api/kernels", json={"name": "ci-tools-python", "path": "gone"})

    events = await run_command(server, answer.json()["id"], command="ls -A /mnt/data")

    assert [event for event in events if "text" in event] == []


async def test_probe_says_what_holds(server: httpx2.AsyncClient) -> None:
    report = (await server.get("/ci-tools/api/probe")).json()

    assert report["isolation"] == "namespaces"
    assert {"memory", "disk", "processes"} <= {item["limit"] for item in report["mechanisms"]}
