"""Servers over a service that is open already, and what their results hold."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from mcp import Client
from mcp.server.mcpserver import MCPServer
from mcp.types import CallToolResult, ImageContent, ResourceLink, TextContent

from ci_tools import SessionService
from ci_tools_mcp import create_server
from ci_tools_mcp.access import Access


def make_server(
    service: SessionService, *, default_session: bool = True, **options: Any
) -> MCPServer[Access]:
    @asynccontextmanager
    async def opened() -> AsyncIterator[SessionService]:
        yield service

    return create_server(opened, default_session=default_session, **options)


async def call(client: Client, tool: str, **arguments: Any) -> CallToolResult:
    return await client.call_tool(tool, arguments)


async def structured(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """Call a tool that must succeed, and return its structured result."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, text_of(result)
    assert isinstance(result.structured_content, dict)
    return result.structured_content


def text_of(result: CallToolResult) -> str:
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent))


def body_of(result: CallToolResult) -> str:
    """Return the text below the line that names the step."""
    return text_of(result).partition("\n\n")[2]


def images_of(result: CallToolResult) -> list[ImageContent]:
    return [block for block in result.content if isinstance(block, ImageContent)]


def links_of(result: CallToolResult) -> list[str]:
    return [block.uri for block in result.content if isinstance(block, ResourceLink)]


def session_of(result: CallToolResult) -> str:
    return _find(r"session_id: (sess_\w+)", result)


def step_of(result: CallToolResult) -> str:
    return _find(r"step_id: (step_\w+)", result)


def _find(pattern: str, result: CallToolResult) -> str:
    match = re.search(pattern, text_of(result))
    assert match is not None, text_of(result)
    return match[1]
