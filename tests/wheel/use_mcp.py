"""Use an installed `ci-tools mcp` as an MCP client does; the arguments are our packages' names."""

import importlib
import os
import shutil
import sys
import sysconfig
from pathlib import Path

import anyio
from mcp import Client, StdioServerParameters
from mcp.types import TextContent

LIMIT = 120
"""Seconds for the whole exchange, the start of the first kernel included."""


def check_origin(packages: list[str]) -> None:
    """Check that every package comes from this environment and not from a checkout."""
    site = Path(sysconfig.get_path("purelib")).resolve()
    for package in packages:
        file = importlib.import_module(package).__file__
        assert file is not None and Path(file).resolve().is_relative_to(site), file


async def main() -> None:
    """Run code in a kernel through MCP over stdio."""
    check_origin(sys.argv[1:])
    command = shutil.which("ci-tools")
    assert command is not None
    server = StdioServerParameters(command=command, args=["mcp"], env=dict(os.environ))
    with anyio.fail_after(LIMIT):
        async with Client(server) as client:
            tools = (await client.list_tools()).tools
            result = await client.call_tool("run_code", {"code": "print(6 * 7)"})
    text = "".join(block.text for block in result.content if isinstance(block, TextContent))
    assert not result.is_error and "42" in text, text
    print(f"MCP over stdio from the wheel: {len(tools)} tools, run_code works")


anyio.run(main)
