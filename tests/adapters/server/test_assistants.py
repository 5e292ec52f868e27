import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from ci_tools import ConfigurationError, SessionService, Settings, open_service
from ci_tools.testing import FakeBackend
from ci_tools_assistants.objects import Kind
from ci_tools_assistants.storage.records import open_records
from ci_tools_server import create_app
from ci_tools_server.listening import check_exposure
from tests.adapters.server.processes import run

BASE = "http://127.0.0.1:8765"
KEY = {"Authorization": "Bearer run_secret"}
PAGE = "https://app.example"


@asynccontextmanager
async def open_app(settings: Settings, folder: Path) -> AsyncIterator[httpx2.AsyncClient]:
    @asynccontextmanager
    async def open_with_fake() -> AsyncIterator[SessionService]:
        async with open_service(settings, backend=FakeBackend(folder)) as service:
            yield service

    app = create_app(settings, open_service=open_with_fake, run_secret="run_secret")
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url=BASE) as client,
    ):
        yield client


@pytest.fixture
async def client(settings: Settings, tmp_path: Path) -> AsyncIterator[httpx2.AsyncClient]:
    async with open_app(settings, tmp_path / "folders") as client:
        yield client


async def test_the_api_is_beside_mcp(client: httpx2.AsyncClient) -> None:
    made = await client.post("/v1/threads", headers=KEY)

    assert made.status_code == 200
    assert (await client.post("/v1/threads")).json()["error"]["type"] == "invalid_request_error"
    assert (await client.get("/healthz")).json() == {"status": "ok"}
    assert (await client.post("/mcp", json={})).status_code == 401


async def test_an_unknown_path_is_the_apis(client: httpx2.AsyncClient) -> None:
    response = await client.get("/nothing", headers=KEY)

    assert response.status_code == 404
    assert response.json()["error"]["message"] == "Invalid URL (GET /nothing)"


async def test_metrics_count_by_pattern_and_hold_no_ids(client: httpx2.AsyncClient) -> None:
    made = (await client.post("/openai/threads", headers=KEY)).json()
    await client.get(f"/v1/threads/{made['id']}", headers=KEY)
    await client.get("/v1/my-secret", headers=KEY)

    text = (await client.get("/metrics", headers=KEY)).text

    assert 'route="/v1/threads/{thread_id}"' in text
    assert 'method="POST",route="/v1/threads"' in text
    assert made["id"] not in text
    assert "my-secret" not in text


async def test_pages_of_other_sites_may_not_call_the_api(client: httpx2.AsyncClient) -> None:
    response = await client.get("/v1/threads", headers={**KEY, "Origin": PAGE})

    assert response.status_code == 403


async def test_pages_of_named_origins_may_call_the_api_and_nothing_else(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path / "state", cors_origins=(PAGE,))
    preflight = {
        "Origin": PAGE,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,openai-beta,x-stainless-os",
    }
    async with open_app(settings, tmp_path / "folders") as client:
        asked = await client.options("/v1/threads", headers=preflight)
        made = await client.post("/v1/threads", headers={**KEY, "Origin": PAGE})
        foreign = await client.get("/v1/threads", headers={**KEY, "Origin": "https://x.example"})
        mcp = await client.post("/mcp", headers={**KEY, "Origin": PAGE}, json={})

    assert asked.status_code == 200
    assert "x-stainless-os" in asked.headers["access-control-allow-headers"]
    assert made.status_code == 200
    assert made.headers["access-control-allow-origin"] == PAGE
    assert "x-request-id" in made.headers["access-control-expose-headers"]
    assert foreign.status_code == 403
    assert mcp.status_code == 403


async def test_without_auth_no_key_is_asked_for(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path / "state", auth="none")
    async with open_app(settings, tmp_path / "folders") as client:
        response = await client.post("/v1/threads")

    assert response.status_code == 200


def test_without_auth_not_every_page_may_call(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, auth="none", cors_origins=("*",))

    with pytest.raises(ConfigurationError, match="cors_origins"):
        check_exposure(settings)


async def test_without_its_packages_the_api_is_left_out_and_said(
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name in [name for name in sys.modules if name.startswith("ci_tools_assistants")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "langchain_core", None)
    monkeypatch.setitem(sys.modules, "langchain_core.messages", None)
    caplog.set_level("INFO")

    async with open_app(settings, tmp_path / "folders") as client:
        response = await client.post("/v1/threads", headers=KEY)

    assert response.status_code == 404
    assert "[assistants]'" in caplog.text


async def test_erasing_a_principal_erases_its_threads(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path / "state")
    thread = {"id": "thread_1", "object": "thread", "metadata": {}, "tool_resources": {}}
    async with open_service(settings, backend=FakeBackend(tmp_path / "folders")) as service:
        records = await open_records(service.database)
        await records.add(Kind.THREAD, thread, principal="ada")

    code, _, _ = await run(tmp_path, "principal", "erase", "ada", "--yes")

    assert code == 0
    async with open_service(settings, backend=FakeBackend(tmp_path / "folders")) as service:
        records = await open_records(service.database)
        assert (await records.page(Kind.THREAD, principal="ada")).data == []
