"""Use our MCP server with langchain-mcp-adapters: run in the environment of these.

python through_mcp_adapters.py '{"transport": "stdio", "command": …, "args": […]}'
"""

import asyncio
import json
import sys

from langchain_mcp_adapters.client import MultiServerMCPClient  # type: ignore[import-not-found]
from langchain_mcp_adapters.tools import load_mcp_tools  # type: ignore[import-not-found]


async def main() -> None:
    client = MultiServerMCPClient({"ci-tools": json.loads(sys.argv[1])})
    async with client.session("ci-tools") as session:
        tools = {tool.name: tool for tool in await load_mcp_tools(session)}
        call = {"name": "run_code", "id": "1", "type": "tool_call"}
        first = await tools["run_code"].ainvoke({**call, "args": {"code": "x = 41"}})
        text = first.content if isinstance(first.content, str) else first.content[0]["text"]
        session_id = text.split("session_id: ")[1].split()[0]
        arguments = {"code": "x + 1", "session_id": session_id}
        second = await tools["run_code"].ainvoke({**call, "args": arguments})
    print(json.dumps({"tools": sorted(tools), "text": str(second.content)}))


asyncio.run(main())
