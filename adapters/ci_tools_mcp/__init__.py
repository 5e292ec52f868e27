"""Sessions over the Model Context Protocol: stdio and streamable HTTP."""

from ci_tools_mcp.access import DEFAULT_SESSION_HEADER
from ci_tools_mcp.server import create_server

__all__ = ["DEFAULT_SESSION_HEADER", "create_server"]
