"""Use our MCP server with `langchain.mcp`: run in the environment of that.

python through_langchain_mcp.py '{"url": …, "headers": {…}}'
"""

import asyncio
import json
import sys
import warnings

from langchain_core._api import LangChainBetaWarning

warnings.filterwarnings("ignore", category=LangChainBetaWarning)

from fastmcp.client.transports import StdioTransport, StreamableHttpTransport  # type: ignore[import-not-found]  # noqa: E402
from langchain.mcp import MCPAdapter  # noqa: E402


async def main() -> None:
    target = json.loads(sys.argv[1])
    kind = StreamableHttpTransport if "url" in target else StdioTransport
    async with MCPAdapter(kind(**target)) as adapter:
        tools = {tool.name: tool for tool in await adapter.list_tools()}
        call = {"name": "run_code", "id": "1", "type": "tool_call"}
        first = await tools["run_code"].ainvoke({**call, "args": {"code": "x = 41"}})
        session_id = str(first.content).split("session_id: ")[1].split()[0]
        arguments = {"code": "x + 1", "session_id": session_id}
        second = await tools["run_code"].ainvoke({**call, "args": arguments})
    print(json.dumps({"tools": sorted(tools), "text": str(second.content)}))


asyncio.run(main())
