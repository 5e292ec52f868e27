"""Run code through `ci-tools mcp`, as a desktop host does."""

import os
import sys

import anyio
from mcp import Client, StdioServerParameters
from mcp.types import TextContent

SERVER = StdioServerParameters(
    command=sys.executable,
    args=["-m", "ci_tools_server", "mcp"],
    # Clients pass on only a few variables by themselves.
    env={name: value for name, value in os.environ.items() if name.startswith("CI_TOOLS_")},
)


async def main() -> None:
    async with Client(SERVER) as client:
        # On stdio, calls that name no session share one: variables stay.
        for code in ("x = 6", "x * 7", "x / 0"):
            result = await client.call_tool("run_code", {"code": code})
            print(f">>> {code}   ({'failed' if result.is_error else 'completed'})")
            for block in result.content:
                if isinstance(block, TextContent):
                    print(block.text)


anyio.run(main)
