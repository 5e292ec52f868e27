import httpx2
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from ci_tools_server.origin import OriginCheck, is_loopback


async def status(headers: dict[str, str], *, any_address: bool = False) -> int:
    app = Starlette(
        routes=[Route("/", lambda request: PlainTextResponse("ok"))],
        middleware=[
            Middleware(OriginCheck, names=["ci.example.org"], any_address=any_address),
        ],
    )
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app), base_url="http://localhost"
    ) as client:
        return (await client.get("/", headers=headers)).status_code


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1:8765", "[::1]:8765", "ci.example.org", "CI.example.org:443"]
)
async def test_requests_to_a_name_of_ours_pass(host: str) -> None:
    assert await status({"Host": host}) == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "192.0.2.7", "ci.example.org@evil", "", "["]
)
async def test_requests_to_another_name_are_refused(host: str) -> None:
    assert await status({"Host": host}) == 421


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost.evil:1", "["])
async def test_pages_of_other_sites_are_refused(origin: str) -> None:
    assert await status({"Origin": origin}) == 403


@pytest.mark.parametrize("origin", ["http://localhost:3000", "https://ci.example.org"])
async def test_pages_of_our_own_pass(origin: str) -> None:
    assert await status({"Origin": origin}) == 200


async def test_beyond_loopback_a_literal_address_passes_and_a_name_does_not() -> None:
    assert await status({"Host": "192.0.2.7:8765"}, any_address=True) == 200
    assert await status({"Host": "evil.example"}, any_address=True) == 421


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.7", False),
        ("example.org", False),
    ],
)
def test_what_loopback_is(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
