import json
import signal
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from tests.adapters.server.processes import (
    Serving,
    call,
    descendants,
    run,
    serving,
    session_of,
    wait_until_gone,
)


@asynccontextmanager
async def connect(url: str, token: str) -> AsyncIterator[Client]:
    """A remote MCP client with a bearer token."""
    async with (
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=30) as http,
        Client(streamable_http_client(f"{url}/mcp", http_client=http)) as client,
    ):
        yield client


async def test_the_first_start_prints_a_token_once_and_it_opens_mcp(tmp_path: Path) -> None:
    async with serving(tmp_path) as first, connect(first.url, first.token) as client:
        text = await call(client, "run_code", code="print(6 * 7)")
        again = await call(client, "run_code", code="print(6 * 7)")
    async with serving(tmp_path) as second:
        pass

    assert "42" in text
    assert session_of(text) != session_of(again)  # over HTTP there is no default session
    assert first.token.startswith("cit_")
    assert second.token == ""


async def test_it_tells_that_it_starts_and_takes_connections_at_once(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        first = json.loads(served.log.text.splitlines()[0])

    assert first["message"] == f"starting on {served.url}"


async def test_a_connection_that_comes_while_it_starts_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Serving, "wait_until_listening", Serving.wait_until_starting)
    async with serving(tmp_path) as served, httpx2.AsyncClient(timeout=60) as http:
        answer = await http.get(f"{served.url}/healthz")

    assert answer.status_code == 200


async def test_a_model_can_be_named_beside_those_that_are_set(tmp_path: Path) -> None:
    models = '{"gpt-4o": "openai:gpt-5", "default": {"use": "openai:x", "base_url": "http://x/"}}'
    named = ("--model", "anthropic:claude-sonnet-4-5")
    keys = {"ANTHROPIC_API_KEY": "a", "OPENAI_API_KEY": "o"}
    async with serving(tmp_path, *named, CI_TOOLS_MODELS=models, **keys) as served:
        key = {"Authorization": f"Bearer {served.token}"}
        async with httpx2.AsyncClient(base_url=f"{served.url}/v1", headers=key) as http:
            listed = (await http.get("/models")).json()["data"]

    assert {model["id"]: model["owned_by"] for model in listed} == {
        "gpt-4o": "openai",
        "default": "anthropic",
    }


async def test_what_kernels_need_is_started_with_the_service(tmp_path: Path) -> None:
    async with serving(tmp_path, FAKE_COLD="no sandbox here") as served:
        told = await served.log.wait_for("no sandbox here")
        async with httpx2.AsyncClient() as http:
            answer = await http.get(f"{served.url}/readyz")

    assert "code cannot run" in told
    assert answer.status_code == 200


async def test_tokens_of_other_principals_open_other_sessions(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        _, created, _ = await run(tmp_path, "token", "create", "--principal", "ada")
        ada = created.strip()
        async with connect(served.url, served.token) as client:
            session_id = session_of(await call(client, "run_code", code="x = 1"))
        async with connect(served.url, ada) as client:
            foreign = await call(client, "run_code", code="print(x)", session_id=session_id)
            unknown = await call(client, "run_code", code="print(x)", session_id="sess_0")
        listed = (await run(tmp_path, "token", "list"))[1].splitlines()
        revoked = await run(tmp_path, "token", "revoke", listed[-1].split()[0])
        async with httpx2.AsyncClient() as http:
            headers = {"Authorization": f"Bearer {ada}"}
            answer = await http.post(f"{served.url}/mcp", json={}, headers=headers)

    assert foreign.replace(session_id, "ID") == unknown.replace("sess_0", "ID")
    assert [line.split()[-1] for line in listed[1:]] == ["local", "ada"]
    assert ada not in "".join(listed)
    assert revoked[0] == 0
    assert answer.status_code == 401


async def test_large_files_go_through_tickets_that_tools_make(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, connect(served.url, served.token) as client:
        result = await client.call_tool("upload_file", {"path": "big.bin", "ticket": True})
        content = result.structured_content or {}
        async with httpx2.AsyncClient() as http:
            answer = await http.put(content["put_url"], content=b"x" * 5_000_000)
        text = await call(
            client,
            "run_code",
            session_id=content["session_id"],
            code="import os; print(os.path.getsize('big.bin'))",
        )

    assert content["put_url"].startswith(f"{served.url}/tickets/")
    assert answer.status_code == 201
    assert "5000000" in text


async def test_the_run_file_is_there_while_it_runs_and_closed_to_others(tmp_path: Path) -> None:
    path = tmp_path / "state" / "serve.json"

    async with serving(tmp_path) as served:
        content = json.loads(path.read_text())
        mode = stat.S_IMODE(path.stat().st_mode)

    assert (content["url"], content["pid"]) == (served.url, served.process.pid)
    assert mode == 0o600
    assert not path.exists()


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_it_in_order_and_leaves_no_process(
    tmp_path: Path, name: signal.Signals
) -> None:
    async with serving(tmp_path) as served:
        async with connect(served.url, served.token) as client:
            await call(client, "run_code", code="x = 1")
        pids = descendants(served.process.pid)
        served.process.send_signal(name)
        await wait_until_gone(pids, reap=served.process)

    assert served.process.returncode == 0
    assert len(pids) > 1


async def test_a_signal_while_it_starts_stops_it(tmp_path: Path) -> None:
    code, _, errors = await run(tmp_path, "serve", "--port", "0", FAKE_STOP="1")

    assert code == 0
    assert "stopping" in errors
    assert not (tmp_path / "state" / "serve.json").exists()


async def test_a_signal_during_a_step_stores_the_step(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, connect(served.url, served.token) as client:
        code = "print('begun', flush=True)\nimport time; time.sleep(100)"
        text = await call(client, "run_code", code=code, wait_s=0.5)
        session_id = session_of(text)
    async with serving(tmp_path) as served:
        _, created, _ = await run(tmp_path, "token", "create", "--principal", "local")
        async with connect(served.url, created.strip()) as client:
            result = await client.call_tool("list_run_steps", {"session_id": session_id})

    steps = (result.structured_content or {})["steps"]
    assert [step["status"] for step in steps] == ["cancelled"]


async def test_logs_are_json_and_hold_no_code_output_or_secret(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, CI_TOOLS_LOG_LEVEL="debug") as served,
        connect(served.url, served.token) as client,
    ):
        await call(client, "run_code", code="print('hidden ' + 'output')  # hidden code")
        await call(client, "run_code", code="raise ValueError('hidden error')")
        content = {"path": "a.txt", "ticket": True}
        ticket = await client.call_tool("upload_file", content)
        url = (ticket.structured_content or {})["put_url"]
        async with httpx2.AsyncClient() as http:
            await http.put(url, content=b"hidden content")

    lines = served.log.text.splitlines()
    lines = [line for line in lines if not line.startswith(("Token of", "Send it"))]
    assert all(json.loads(line)["level"] for line in lines)
    assert any(
        json.loads(line)["message"].startswith("PUT /tickets/{secret} 201") for line in lines
    )
    logged = "\n".join(lines)
    for secret in ("hidden", served.token, url.rsplit("/", 1)[1]):
        assert secret not in logged


async def test_listening_beyond_loopback_without_auth_is_refused(tmp_path: Path) -> None:
    code, _, errors = await run(tmp_path, "serve", "--host", "0.0.0.0", "--auth", "none")

    assert code == 1
    assert errors.count("\n") == 1
    assert "0.0.0.0" in errors


async def test_a_port_that_is_taken_is_one_clear_line(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        port = served.url.rsplit(":", 1)[1]
        code, _, errors = await run(tmp_path, "serve", "--port", port)

    assert code == 1
    assert errors.splitlines()[-1].startswith(f"ci-tools: Cannot listen on 127.0.0.1 port {port}")


async def test_a_database_that_cannot_be_opened_is_one_clear_line(tmp_path: Path) -> None:
    code, _, errors = await run(
        tmp_path, "serve", "--port", "0", CI_TOOLS_DATABASE_URL="sqlite:////proc/none/x.db"
    )

    assert code == 1
    assert errors.splitlines()[-1].startswith("ci-tools: ")
    assert "Traceback" not in errors
