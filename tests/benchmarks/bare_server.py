"""The least that the `mcp` package can serve over stdio: one tool that does nothing."""

from mcp.server.mcpserver import MCPServer

server = MCPServer("bare", log_level="WARNING")


@server.tool()
async def ping() -> str:
    """Answer at once."""
    return "pong"


server.run("stdio")
