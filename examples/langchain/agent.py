"""An agent that analyses a file: `python agent.py openai:gpt-5 data.csv "What is in it?"`.

The model is any that LangChain knows; its package and its key must be there. With
CODE_INTERPRETER_URL and CI_TOOLS_TOKEN the code runs on a shared `ci-tools serve`, or else here in
a sandbox.
"""

import base64
import mimetypes
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
from langchain.agents import create_agent
from langchain.chat_models import init_chat_model
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver

from langchain_ci_tools import CodeInterpreterMiddleware, CodeInterpreterToolkit


def open_toolkit() -> CodeInterpreterToolkit:
    if url := os.environ.get("CODE_INTERPRETER_URL"):
        return CodeInterpreterToolkit.connect(url, os.environ["CI_TOOLS_TOKEN"])
    return CodeInterpreterToolkit.local()


def attach(path: Path) -> dict[str, object]:
    return {
        "type": "file",
        "base64": base64.b64encode(path.read_bytes()).decode(),
        "mime_type": mimetypes.guess_type(path.name)[0] or "application/octet-stream",
        "extras": {"filename": path.name},
    }


async def main(model: str, path: Path, question: str) -> None:
    # A thread has its session until that expires: another conversation is another thread.
    config: RunnableConfig = {"configurable": {"thread_id": str(uuid4())}}
    content = [{"type": "text", "text": question}, attach(path)]
    async with open_toolkit() as toolkit:
        agent = create_agent(
            init_chat_model(model),
            middleware=[CodeInterpreterMiddleware(toolkit)],
            checkpointer=InMemorySaver(),
        )
        before = {path.name}
        events: AsyncIterator[Any] = agent.astream(
            {"messages": [{"role": "user", "content": content}]},
            config,
            stream_mode=["custom", "values"],
        )
        async for mode, event in events:
            if mode == "custom":  # what the code prints, while it runs
                print(event["output"].get("text", ""), end="", file=sys.stderr)
            else:
                answer = event["messages"][-1].text
        print(answer)
        for file in await toolkit.alist_files(config):
            if file.path not in before:
                data = await toolkit.adownload_file(file.path, config)
                saved = anyio.Path(Path(file.path).name)
                await saved.write_bytes(data)
                print(f"saved {saved}, {file.size:,} bytes")


if len(sys.argv) != 4:
    sys.exit(__doc__)
anyio.run(main, sys.argv[1], Path(sys.argv[2]), sys.argv[3])
