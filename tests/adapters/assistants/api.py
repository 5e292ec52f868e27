"""The API in process, for tests that look at single answers."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2

from ci_tools import SessionService, Settings, open_service
from ci_tools.testing import FakeBackend
from ci_tools_assistants.app import Api, AssistantsApp

V1 = {"OpenAI-Beta": "assistants=v1"}
V2 = {"OpenAI-Beta": "assistants=v2"}


class ApiClient(httpx2.AsyncClient):
    """A client of the API as one principal, and what is behind the API."""

    def __init__(self, app: AssistantsApp, api: Api, headers: Mapping[str, str]) -> None:
        super().__init__(
            transport=httpx2.ASGITransport(app), base_url="http://api.test/v1", headers=headers
        )
        self.app = app
        self.api = api

    async def as_principal(self, name: str) -> "ApiClient":
        """Return a client of another principal."""
        key = await new_key(self.api.service, name)
        return ApiClient(self.app, self.api, {"Authorization": f"Bearer {key}"})

    async def make(self, path: str, body: Any = None, **options: Any) -> dict[str, Any]:
        """Post and return the object that was made."""
        response = await self.post(path, json={} if body is None else body, **options)
        assert response.status_code == 200, response.text
        return dict(response.json())

    async def fetch(self, path: str, **options: Any) -> dict[str, Any]:
        """Get an object."""
        response = await self.get(path, **options)
        assert response.status_code == 200, response.text
        return dict(response.json())

    async def refused(self, method: str, path: str, **options: Any) -> tuple[int, dict[str, Any]]:
        """Return status and error of a request that is refused."""
        response = await self.request(method, path, **options)
        assert response.status_code >= 400, response.text
        assert response.headers["x-request-id"].startswith("req_")
        body = response.json()
        assert {"message", "type", "param", "code"} <= set(body["error"])
        return response.status_code, body["error"]

    async def upload(self, name: str = "a.csv", content: bytes = b"a,b\n1,2\n") -> str:
        """Upload a file and return its id."""
        response = await self.post(
            "/files", files={"file": (name, content)}, data={"purpose": "assistants"}
        )
        assert response.status_code == 200, response.text
        return str(response.json()["id"])


async def new_key(service: SessionService, principal: str) -> str:
    """Return a key of a principal."""
    _, secret = await service.act_as(principal).create_token()
    return secret


@asynccontextmanager
async def open_client(folder: Path, **settings: Any) -> AsyncIterator[ApiClient]:
    """Open the API on fake kernels, with a client of the principal `ada`."""
    chosen = Settings(state_dir=folder / "state", **settings)
    async with open_service(chosen, backend=FakeBackend(folder / "kernels")) as service:
        app = AssistantsApp(service.find_principal)
        async with app.open(service, chosen) as api:
            key = await new_key(service, "ada")
            async with ApiClient(app, api, {"Authorization": f"Bearer {key}"}) as client:
                yield client
