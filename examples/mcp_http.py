"""Use a running `ci-tools serve` from elsewhere: a bearer token, and a large file by a ticket."""

import os
import sys

import anyio
import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import TextContent

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8765"
HEADERS = {"Authorization": f"Bearer {os.environ['CI_TOOLS_TOKEN']}"}


async def main() -> None:
    async with (
        httpx2.AsyncClient(headers=HEADERS, timeout=60) as http,
        Client(streamable_http_client(f"{URL}/mcp", http_client=http)) as client,
        httpx2.AsyncClient() as plain,  # a ticket is its own authority: it needs no token
    ):
        ticket = await client.call_tool("upload_file", {"path": "numbers.txt", "ticket": True})
        assert ticket.structured_content is not None
        upload = await plain.put(ticket.structured_content["put_url"], content=numbers())
        upload.raise_for_status()
        print(f"uploaded {upload.json()['size']:,} bytes")
        arguments = {
            "session_id": ticket.structured_content["session_id"],
            "code": "print(sum(int(line) for line in open('numbers.txt')))",
        }
        result = await client.call_tool("run_code", arguments)
        print(*(block.text for block in result.content if isinstance(block, TextContent)))
        await client.call_tool("close_session", {"session_id": arguments["session_id"]})


async def numbers():
    """Stream three million bytes: nothing holds the file whole."""
    for start in range(0, 400_000, 1000):
        yield "".join(f"{number}\n" for number in range(start, start + 1000)).encode()


anyio.run(main)
