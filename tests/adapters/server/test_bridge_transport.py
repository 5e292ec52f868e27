"""The transport below the bridge, against a service that is played."""

import json
from collections.abc import Callable

import anyio
import httpx2
import pytest

from ci_tools_server.bridge import ServiceTransport, Target
from ci_tools_server.stdio import find_proxy

HELLO = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}}
PING = {"jsonrpc": "2.0", "id": 2, "method": "ping"}


class Service:
    """A service that runs at one address with one token, and forgets its sessions on restart."""

    def __init__(self) -> None:
        self.target: Target | None = Target(url="http://127.0.0.1:1/mcp", token="one")
        self.sessions = 0
        self.known: set[str] = set()
        self.requests: list[httpx2.Request] = []

    def restart(self, *, url: str = "http://127.0.0.1:2/mcp", token: str = "two") -> None:
        self.target = Target(url=url, token=token)
        self.known.clear()

    def answer(self, request: httpx2.Request) -> httpx2.Response:
        if self.target is None or str(request.url) != self.target.url:
            raise httpx2.ConnectError("refused")
        self.requests.append(request)
        if request.headers.get("authorization") != f"Bearer {self.target.token}":
            return httpx2.Response(401, json={"error": "invalid_token"})
        message = json.loads(request.content)
        if message["method"] == "initialize":
            self.sessions += 1
            self.known.add(f"s{self.sessions}")
            headers = {"mcp-session-id": f"s{self.sessions}"}
            return httpx2.Response(200, json={"id": message["id"]}, headers=headers)
        if request.headers["mcp-session-id"] not in self.known:
            return httpx2.Response(404, json={"error": {"message": "Session not found"}})
        return httpx2.Response(200, json={"id": message.get("id")})


def client_of(
    service: Service, *, find: Callable[[], Target | None] | None = None, default: bool = True
) -> httpx2.AsyncClient:
    transport = ServiceTransport(
        find or (lambda: service.target),
        default_session=default,
        inner=httpx2.MockTransport(service.answer),
    )
    return httpx2.AsyncClient(transport=transport)


async def post(client: httpx2.AsyncClient, message: object, session: str = "") -> httpx2.Response:
    headers = {"mcp-session-id": session} if session else {}
    return await client.post("http://service/mcp", json=message, headers=headers)


async def test_address_token_and_default_session_are_put_in() -> None:
    service = Service()
    async with client_of(service) as client:
        await post(client, HELLO)
        await post(client, PING, "s1")

    first, second = service.requests
    assert first.headers["authorization"] == "Bearer one"
    assert first.headers["host"] == "127.0.0.1:1"
    key = first.headers["ci-tools-default-session"]
    assert len(key) >= 32
    assert second.headers["ci-tools-default-session"] == key


async def test_without_a_default_session_no_key_is_sent() -> None:
    service = Service()
    async with client_of(service, default=False) as client:
        await post(client, HELLO)

    assert "ci-tools-default-session" not in service.requests[0].headers


async def test_a_service_that_moved_is_followed_into_a_new_session() -> None:
    service = Service()
    async with client_of(service) as client:
        await post(client, HELLO)
        service.restart()

        answers = [await post(client, PING, "s1") for _ in range(2)]

    assert [answer.json() for answer in answers] == [{"id": 2}, {"id": 2}]
    sent = [json.loads(request.content)["method"] for request in service.requests]
    hello, renewed = ["initialize"], ["ping", "initialize", "notifications/initialized", "ping"]
    assert sent == [*hello, *renewed, "ping"]
    assert service.requests[-1].headers["mcp-session-id"] == "s2"


async def test_calls_at_once_open_one_new_session() -> None:
    service = Service()
    async with client_of(service) as client:
        await post(client, HELLO)
        service.restart()
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(post, client, PING, "s1")

    assert service.sessions == 2


async def test_a_new_secret_at_the_same_address_is_found() -> None:
    service = Service()
    async with client_of(service) as client:
        await post(client, HELLO)
        service.restart(url="http://127.0.0.1:1/mcp", token="new")

        answer = await post(client, PING, "s1")

    assert answer.json() == {"id": 2}


async def test_a_service_that_is_away_is_an_error_of_the_one_call() -> None:
    service = Service()
    async with client_of(service) as client:
        await post(client, HELLO)
        moved, service.target = service.target, None
        away = await post(client, PING, "s1")
        service.target = moved
        back = await post(client, PING, "s1")

    assert away.status_code == 503
    assert "ci-tools serve" in away.json()["error"]["message"]
    assert back.json() == {"id": 2}


async def test_a_token_that_is_refused_is_said() -> None:
    service = Service()
    wrong = Target(url="http://127.0.0.1:1/mcp", token="wrong")
    async with client_of(service, find=lambda: wrong) as client:
        answer = await post(client, HELLO)

    assert "CI_TOOLS_TOKEN" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        (None, None),
        ("http://127.0.0.1:8765", None),
        ("https://inside.example", None),
        ("https://ci.example", "http://proxy:3128"),
    ],
)
def test_a_proxy_stands_only_before_other_machines(
    server: str | None, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "http_proxy", "HTTP_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "inside.example")

    assert find_proxy(server) == expected
