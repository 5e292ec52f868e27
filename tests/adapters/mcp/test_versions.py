"""Every protocol version in its own words: raw JSON-RPC over HTTP, without a client library."""

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import httpx2
import pytest
import uvicorn

from ci_tools import SessionService, StepStatus
from ci_tools_mcp import DEFAULT_SESSION_HEADER, progress
from tests.adapters.mcp.servers import make_server

HANDSHAKE_VERSIONS = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"]

MODERN_VERSION = "2026-07-28"

WRITE_FILE = "open('a.txt', 'w').write('x')"


class Peer:
    """Sends JSON-RPC requests of one protocol version."""

    def __init__(self, http: httpx2.AsyncClient, version: str) -> None:
        self.http = http
        self.version = version
        self.headers = {"accept": "application/json, text/event-stream"}
        self._id = 0

    async def start(self) -> dict[str, Any]:
        if self.version == MODERN_VERSION:
            return await self.request("server/discover")
        response = await self._post(
            "initialize",
            {
                "protocolVersion": self.version,
                "capabilities": {},
                "clientInfo": {"name": "raw", "version": "1"},
            },
        )
        self.headers["mcp-session-id"] = response.headers["mcp-session-id"]
        self.headers["mcp-protocol-version"] = self.version
        note = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        await self.http.post("/mcp", json=note, headers=self.headers)
        return result_of(response)

    async def request(self, method: str, **params: Any) -> dict[str, Any]:
        return result_of(await self._post(method, params))

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        return await self.request("tools/call", name=tool, arguments=arguments)

    def message(self, method: str, params: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """Return a request and its headers."""
        self._id += 1
        headers = dict(self.headers)
        if self.version == MODERN_VERSION:
            meta = {
                "io.modelcontextprotocol/protocolVersion": self.version,
                "io.modelcontextprotocol/clientCapabilities": {},
                **params.get("_meta", {}),
            }
            params = {**params, "_meta": meta}
            headers |= {"mcp-protocol-version": self.version, "mcp-method": method}
            if "name" in params:
                headers["mcp-name"] = params["name"]
        return {"jsonrpc": "2.0", "id": self._id, "method": method, "params": params}, headers

    async def _post(self, method: str, params: dict[str, Any]) -> httpx2.Response:
        body, headers = self.message(method, params)
        response = await self.http.post("/mcp", json=body, headers=headers)
        assert response.status_code == 200, response.text
        return response


def messages_of(text: str) -> list[dict[str, Any]]:
    if not text.startswith(("event:", "data:", ":", "id:")):
        return [json.loads(text)]
    lines = [line.removeprefix("data:").strip() for line in text.splitlines()]
    return [json.loads(line) for line in lines if line.startswith("{")]


def result_of(response: httpx2.Response) -> dict[str, Any]:
    result = messages_of(response.text)[-1]["result"]
    assert isinstance(result, dict)
    return result


@asynccontextmanager
async def connect(service: SessionService, version: str) -> AsyncIterator[Peer]:
    server = make_server(service, default_session=False)
    app = server.streamable_http_app()
    transport = httpx2.ASGITransport(app=app)
    async with (
        server.session_manager.run(),
        httpx2.AsyncClient(transport=transport, base_url="http://localhost:1") as http,
    ):
        yield Peer(http, version)


@pytest.mark.parametrize("version", [*HANDSHAKE_VERSIONS, MODERN_VERSION])
async def test_every_version_runs_code(service: SessionService, version: str) -> None:
    async with connect(service, version) as peer:
        started = await peer.start()
        tools = await peer.request("tools/list")
        result = await peer.call("run_code", code="6 * 7")
        failed = await peer.call("run_code", code="1 / 0")

    assert version in (started.get("protocolVersion"), *started.get("supportedVersions", []))
    assert started["instructions"].startswith("run_code runs code")
    assert len(tools["tools"]) == 12
    assert result["content"][0]["text"].endswith("\n\n42")
    assert not result.get("isError")
    assert failed["isError"] is True


@pytest.mark.parametrize("version", [*HANDSHAKE_VERSIONS, MODERN_VERSION])
async def test_only_versions_that_know_links_get_them(
    service: SessionService, version: str
) -> None:
    async with connect(service, version) as peer:
        await peer.start()
        result = await peer.call("run_code", code=WRITE_FILE)

    types = [block["type"] for block in result["content"]]
    assert "a.txt (1 bytes)" in result["content"][0]["text"]
    assert types == (["text", "resource_link"] if version >= "2025-06-18" else ["text"])


@pytest.mark.parametrize("version", ["2025-11-25", MODERN_VERSION])
async def test_a_header_chooses_the_default_session(service: SessionService, version: str) -> None:
    async with connect(service, version) as peer:
        await peer.start()
        peer.headers[DEFAULT_SESSION_HEADER] = "1"
        await peer.call("run_code", code="x = 41")
        again = await peer.call("run_code", code="x + 1")
        peer.headers[DEFAULT_SESSION_HEADER] = "2"
        other = await peer.call("run_code", code="'x' in globals()")

    assert again["content"][0]["text"].endswith("\n\n42")
    assert other["content"][0]["text"].endswith("\n\nFalse")
    assert len(await service.list_sessions()) == 2


@pytest.mark.parametrize("version", ["2025-11-25", MODERN_VERSION])
async def test_progress_comes_before_the_result(
    service: SessionService, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "INTERVAL", 0.02)
    code = "import time\nfor i in range(5):\n    print(i, flush=True)\n    time.sleep(0.1)"

    async with connect(service, version) as peer:
        await peer.start()
        body, headers = peer.message(
            "tools/call",
            {"name": "run_code", "arguments": {"code": code}, "_meta": {"progressToken": "p"}},
        )
        response = await peer.http.post("/mcp", json=body, headers=headers)

    *notes, result = messages_of(response.text)
    assert {note["method"] for note in notes} == {"notifications/progress"}
    assert {note["params"]["progressToken"] for note in notes} == {"p"}
    numbers = [note["params"]["progress"] for note in notes]
    assert numbers == sorted(set(numbers))
    assert notes[-1]["params"]["message"] in {"0", "1", "2", "3", "4"}
    assert "0\n1\n2\n3\n4" in result["result"]["content"][0]["text"]


@asynccontextmanager
async def connect_by_socket(service: SessionService, version: str) -> AsyncIterator[Peer]:
    """Serve on a real socket, for only there a client can hang up."""
    app = make_server(service, default_session=False).streamable_http_app()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(
            app, log_level="warning", timeout_graceful_shutdown=1, ws="none", http="h11"
        )
        server = uvicorn.Server(config)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(server.serve, sockets=[listener]))
            while not server.started:
                await anyio.sleep(0.01)
            async with httpx2.AsyncClient(base_url=url, timeout=20) as http:
                yield Peer(http, version)
            server.should_exit = True


@pytest.mark.parametrize(
    ("version", "status"),
    [("2025-11-25", StepStatus.IN_PROGRESS), (MODERN_VERSION, StepStatus.CANCELLED)],
)
async def test_hanging_up_cancels_only_since_the_version_that_says_so(
    service: SessionService, version: str, status: StepStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "INTERVAL", 0.02)
    session = await service.create_session()
    arguments = {
        "code": "import time\nprint('sleeping', flush=True)\ntime.sleep(60)",
        "session_id": session.id,
    }
    params = {"name": "run_code", "arguments": arguments, "_meta": {"progressToken": "p"}}

    with anyio.fail_after(30):
        async with connect_by_socket(service, version) as peer:
            await peer.start()
            body, headers = peer.message("tools/call", params)
            async with peer.http.stream("POST", "/mcp", json=body, headers=headers) as response:
                async for line in response.aiter_lines():
                    if "sleeping" in line:
                        break
            step = (await service.list_run_steps(session.id))[0]
            step = await service.wait_run_step(step.id, timeout=0.5)
            if status is StepStatus.CANCELLED:
                step = await service.wait_run_step(step.id)

            assert step.status is status
            await service.cancel_run_step(step.id)
