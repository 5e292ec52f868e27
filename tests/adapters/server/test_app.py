from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from starlette.types import Message, Scope

from ci_tools import SessionService, Settings, open_service
from ci_tools.testing import FakeBackend
from ci_tools.workspace import LocalWorkspace
from ci_tools_server import create_app
from ci_tools_server.app import MCP_BODY_LIMIT
from ci_tools_server.run_file import prove_run

BASE = "http://127.0.0.1:8765"


class Client(httpx2.AsyncClient):
    """An HTTP client of the app, and the service inside of it."""

    def __init__(self, app: Any, service: SessionService) -> None:
        super().__init__(transport=httpx2.ASGITransport(app), base_url=BASE)
        self.app = app
        self.service = service

    async def new_token(self, principal: str = "local") -> dict[str, str]:
        _, secret = await self.service.act_as(principal).create_token()
        return {"Authorization": f"Bearer {secret}"}


@asynccontextmanager
async def open_app(settings: Settings, folder: Path) -> AsyncIterator[Client]:
    opened: list[SessionService] = []

    @asynccontextmanager
    async def open_with_fake() -> AsyncIterator[SessionService]:
        async with open_service(settings, backend=FakeBackend(folder)) as service:
            opened.append(service)
            yield service

    app = create_app(settings, open_service=open_with_fake, run_secret="run_secret")
    async with app.router.lifespan_context(app), Client(app, opened[0]) as client:
        yield client


@pytest.fixture
async def client(settings: Settings, tmp_path: Path) -> AsyncIterator[Client]:
    async with open_app(settings, tmp_path / "folders") as client:
        yield client


def initialize() -> dict[str, Any]:
    return {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        },
    }


MCP_HEADERS = {"Accept": "application/json, text/event-stream"}


async def test_health_is_told_to_everybody_and_the_run_proves_itself_to_who_asks(
    client: Client,
) -> None:
    answer = await client.get("/healthz")
    proven = await client.get("/healthz?challenge=abc")

    assert answer.status_code == 200
    assert answer.json() == {"status": "ok"}
    assert proven.json() == {"status": "ok", "proof": prove_run("run_secret", "abc")}


async def test_ready_while_the_database_answers(client: Client) -> None:
    assert (await client.get("/readyz")).json() == {"status": "ready"}


async def test_mcp_without_a_token_says_where_its_metadata_is(client: Client) -> None:
    answer = await client.post("/mcp", json=initialize(), headers=MCP_HEADERS)

    assert answer.status_code == 401
    metadata_url = f"{BASE}/.well-known/oauth-protected-resource/mcp"
    assert f'resource_metadata="{metadata_url}"' in answer.headers["www-authenticate"]
    metadata = (await client.get(metadata_url)).json()
    assert metadata["resource"] == f"{BASE}/mcp"
    assert metadata["bearer_methods_supported"] == ["header"]


@pytest.mark.parametrize("token", ["", "cit_wrong", "run_wrong", "\N{SNOWMAN}"])
async def test_a_wrong_token_is_refused(client: Client, token: str) -> None:
    headers = [(b"Authorization", f"Bearer {token}".encode())]

    assert (await client.post("/mcp", json=initialize(), headers=headers)).status_code == 401


async def test_a_token_opens_mcp_until_it_is_revoked(client: Client) -> None:
    headers = MCP_HEADERS | await client.new_token("ada")

    accepted = await client.post("/mcp", json=initialize(), headers=headers)
    await client.service.revoke_token((await client.service.list_tokens())[0].id)
    refused = await client.post("/mcp", json=initialize(), headers=headers)

    assert accepted.status_code == 200
    assert refused.status_code == 401


async def test_the_secret_of_the_run_opens_mcp(client: Client) -> None:
    headers = MCP_HEADERS | {"Authorization": "Bearer run_secret"}

    assert (await client.post("/mcp", json=initialize(), headers=headers)).status_code == 200


async def test_an_mcp_session_is_bound_to_its_principal(client: Client) -> None:
    ada, bob = await client.new_token("ada"), await client.new_token("bob")
    hello = await client.post("/mcp", json=initialize(), headers=MCP_HEADERS | ada)
    same = MCP_HEADERS | {"Mcp-Session-Id": hello.headers["mcp-session-id"]}
    ping = {"jsonrpc": "2.0", "id": 2, "method": "ping"}

    assert (await client.post("/mcp", json=ping, headers=same | bob)).status_code == 404
    assert (await client.post("/mcp", json=ping, headers=same | ada)).status_code == 200


async def test_a_body_beyond_the_limit_is_refused(client: Client) -> None:
    headers = MCP_HEADERS | await client.new_token() | {"Content-Type": "application/json"}

    answer = await client.post("/mcp", content=b" " * (MCP_BODY_LIMIT + 1), headers=headers)

    assert answer.status_code == 413
    assert f"{MCP_BODY_LIMIT:,} bytes" in answer.json()["error"]["message"]
    assert "ticket" in answer.json()["error"]["message"]


async def test_a_wrong_token_is_told_from_a_missing_one(client: Client) -> None:
    wrong = {"Authorization": "Bearer nobody's"} | MCP_HEADERS

    missing = await client.post("/mcp", json=initialize(), headers=MCP_HEADERS)
    refused = await client.post("/mcp", json=initialize(), headers=wrong)

    assert (missing.status_code, refused.status_code) == (401, 401)
    assert "No bearer token" in missing.json()["error_description"]
    assert "revoked" in refused.json()["error_description"]
    for answer in (missing, refused):
        assert answer.json()["error_description"] in answer.headers["www-authenticate"]
        assert "resource_metadata=" in answer.headers["www-authenticate"]


@pytest.mark.parametrize("path", ["/mcp", "/healthz", "/tickets/x", "/metrics", "/nothing"])
async def test_every_route_checks_host_and_origin(client: Client, path: str) -> None:
    assert (await client.get(path, headers={"Host": "evil.example"})).status_code == 421
    assert (await client.get(path, headers={"Origin": "http://evil.example"})).status_code == 403


async def test_what_is_refused_before_the_api_has_the_id_of_a_request_too(client: Client) -> None:
    foreign = await client.get("/v1/threads", headers={"Origin": "http://evil.example"})
    unknown = await client.get("/v1/threads", headers={"Host": "evil.example"})
    refused = await client.get("/v1/threads")

    assert [foreign.status_code, unknown.status_code, refused.status_code] == [403, 421, 401]
    ids = {answer.headers["x-request-id"] for answer in (foreign, unknown, refused)}
    assert len(ids) == 3


async def test_without_auth_everybody_on_this_machine_is_local(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path / "state", auth="none")
    async with open_app(settings, tmp_path / "folders") as client:
        answer = await client.post("/mcp", json=initialize(), headers=MCP_HEADERS)

    assert answer.status_code == 200


async def test_metrics_count_steps_and_requests_without_what_users_wrote(client: Client) -> None:
    service = client.service.act_as("ada")
    session = await service.create_session(name="secret plans")
    await service.run_code(session.id, "print('hidden')")
    await service.run_code(session.id, "1 / 0")
    await client.get("/tickets/very-secret")

    text = (await client.get("/metrics")).text

    assert 'ci_tools_steps_total{status="completed"} 1.0' in text
    assert 'ci_tools_steps_total{status="failed"} 1.0' in text
    assert "ci_tools_step_seconds_count 2.0" in text
    assert "ci_tools_sessions 1.0" in text
    assert "ci_tools_live_kernels 1.0" in text
    assert "ci_tools_unfinished_steps 0.0" in text
    assert 'route="/tickets/{secret}",status="404"' in text
    for hidden in ("ada", "secret plans", "hidden", "very-secret", session.id):
        assert hidden not in text


@pytest.mark.parametrize(
    "reach", [{"host": "0.0.0.0"}, {"public_url": "https://ci.example.org"}], ids=str
)
async def test_beyond_loopback_metrics_need_a_token_of_the_operator(
    tmp_path: Path, reach: dict[str, str]
) -> None:
    settings = Settings.model_validate({"state_dir": tmp_path / "state", **reach})
    async with open_app(settings, tmp_path / "folders") as client:
        ada, local = await client.new_token("ada"), await client.new_token()

        assert (await client.get("/metrics")).status_code == 401
        assert (await client.get("/metrics", headers=ada)).status_code == 401
        assert (await client.get("/metrics", headers=local)).status_code == 200


async def test_a_file_goes_up_and_down_by_tickets(client: Client) -> None:
    service = client.service.act_as("ada")
    session = await service.create_session()
    _, up = await service.create_ticket(session.id, "in/täglich.csv", "upload")

    stored = await client.put(f"/tickets/{up}", content=b"0123456789")
    _, down = await service.create_ticket(session.id, "in/täglich.csv", "download")
    whole = await client.get(f"/tickets/{down}")
    part = await client.get(f"/tickets/{down}", headers={"Range": "bytes=2-4"})
    head = await client.head(f"/tickets/{down}")

    assert stored.status_code == 201
    assert stored.json()["size"] == 10
    assert (whole.status_code, whole.content) == (200, b"0123456789")
    assert whole.headers["content-type"].startswith("text/csv")
    assert whole.headers["content-disposition"] == (
        "attachment; filename=\"t_glich.csv\"; filename*=UTF-8''t%C3%A4glich.csv"
    )
    assert whole.headers["x-content-type-options"] == "nosniff"
    assert (part.status_code, part.content) == (206, b"234")
    assert part.headers["content-range"] == "bytes 2-4/10"
    assert (head.status_code, head.headers["content-length"], head.content) == (200, "10", b"")


async def test_a_download_is_resumed_only_if_the_file_is_the_same(client: Client) -> None:
    service = client.service
    session = await service.create_session()
    await service.upload_file(session.id, "a.bin", b"first")
    _, down = await service.create_ticket(session.id, "a.bin", "download")
    tag = (await client.get(f"/tickets/{down}")).headers["etag"]
    headers = {"Range": "bytes=2-", "If-Range": tag}

    same = await client.get(f"/tickets/{down}", headers=headers)
    await service.upload_file(session.id, "a.bin", b"other")
    changed = await client.get(f"/tickets/{down}", headers=headers)

    assert (same.status_code, same.content) == (206, b"rst")
    assert (changed.status_code, changed.content) == (200, b"other")


async def test_a_range_behind_the_end_is_refused_with_the_size(client: Client) -> None:
    session = await client.service.create_session()
    await client.service.upload_file(session.id, "a.bin", b"12345")
    _, down = await client.service.create_ticket(session.id, "a.bin", "download")

    answer = await client.get(f"/tickets/{down}", headers={"Range": "bytes=5-"})

    assert (answer.status_code, answer.headers["content-range"]) == (416, "bytes */5")


async def test_an_upload_ticket_works_once_and_only_for_uploads(client: Client) -> None:
    session = await client.service.create_session()
    _, up = await client.service.create_ticket(session.id, "a.bin", "upload")

    assert (await client.get(f"/tickets/{up}")).status_code == 404
    assert (await client.put(f"/tickets/{up}", content=b"1")).status_code == 201
    again = await client.put(f"/tickets/{up}", content=b"2")
    assert (again.status_code, again.json()["error"]["code"]) == (404, "not_found")


async def test_an_unknown_ticket_is_not_repeated_in_the_answer(client: Client) -> None:
    answer = await client.get("/tickets/some-secret")

    assert answer.status_code == 404
    assert "some-secret" not in answer.text


async def test_a_ticket_for_a_file_that_is_not_there_is_not_found(client: Client) -> None:
    session = await client.service.create_session()
    _, down = await client.service.create_ticket(session.id, "none.bin", "download")

    assert (await client.get(f"/tickets/{down}")).status_code == 404


async def test_an_upload_beyond_the_limit_is_refused_declared_or_not(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path / "state", file_limit=1000)

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 100

    async with open_app(settings, tmp_path / "folders") as client:
        session = await client.service.create_session()
        _, up = await client.service.create_ticket(session.id, "a.bin", "upload")

        declared = await client.put(f"/tickets/{up}", content=b"x" * 1001)
        streamed = await client.put(f"/tickets/{up}", content=chunks())

        assert (declared.status_code, streamed.status_code) == (413, 413)
        assert await client.service.list_files(session.id) == []


async def test_an_upload_that_is_broken_off_leaves_nothing(client: Client) -> None:
    session = await client.service.create_session()
    _, up = await client.service.create_ticket(session.id, "a.bin", "upload")
    messages: list[Message] = [
        {"type": "http.request", "body": b"half", "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        pass

    with anyio.fail_after(10):
        await client.app(ticket_scope("PUT", up), receive, send)

    assert await client.service.list_files(session.id) == []


async def test_a_download_that_is_left_stops(client: Client) -> None:
    session = await client.service.create_session()
    await client.service.upload_file(session.id, "a.bin", bytes(8_000_000))
    _, down = await client.service.create_ticket(session.id, "a.bin", "download")
    gone = anyio.Event()
    sent = 0

    async def receive() -> Message:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        nonlocal sent
        sent += len(message.get("body", b""))
        if sent:
            gone.set()
            await anyio.lowlevel.checkpoint()

    with anyio.fail_after(10):
        await client.app(ticket_scope("GET", down), receive, send)

    assert 0 < sent < 8_000_000


def ticket_scope(method: str, secret: str) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": f"/tickets/{secret}",
        "raw_path": f"/tickets/{secret}".encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1:8765")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8765),
    }


async def test_a_download_has_a_plain_name_too_and_is_not_hashed(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await client.service.create_session()

    async def content() -> AsyncIterator[bytes]:
        yield b"0123456789"

    await client.service.upload_file(session.id, 'tables/my "Zahl" ü.csv', content())
    _, down = await client.service.create_ticket(session.id, 'tables/my "Zahl" ü.csv', "download")

    async def refuse(self: LocalWorkspace, path: str) -> str:
        raise AssertionError("hashed")

    monkeypatch.setattr(LocalWorkspace, "sha256", refuse)

    whole = await client.head(f"/tickets/{down}")
    part = await client.get(f"/tickets/{down}", headers={"Range": "bytes=2-3"})

    assert (whole.status_code, part.status_code, part.content) == (200, 206, b"23")
    assert whole.headers["etag"] == part.headers["etag"]
    assert whole.headers["content-disposition"] == (
        "attachment; filename=\"my _Zahl_ _.csv\"; filename*=UTF-8''my%20%22Zahl%22%20%C3%BC.csv"
    )
