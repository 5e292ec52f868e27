"""`ci-tools demo --assistants`: one session over the Assistants API and over MCP.

It starts `ci-tools serve` as a child process and knows only its address: an assistant answers a
question about the demo's data, with its code and text streamed, and then an MCP client looks at the
variables of that very session. The model is a script of ours, so that neither key nor network is
needed; everything else is what any client gets.
"""

import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path, PurePosixPath
from subprocess import DEVNULL
from typing import Any

import anyio
import httpx2
from anyio.abc import Process
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import TextContent
from rich.console import Console
from rich.markup import escape

from ci_tools import ConfigurationError
from ci_tools.extras import install_command
from ci_tools_server.demo import check_demo, find_data
from ci_tools_server.demo.analysis import DATA
from ci_tools_server.run_file import RunFile, find_run

_START_LIMIT = 60.0
"""Seconds until the service must answer."""

_RUN_LIMIT = 120.0
"""Seconds that one request may take."""

_MODEL = "ci_tools_server.demo.scripted:ScriptedModel"

_QUESTION = "How fast did carbon dioxide rise at Mauna Loa? Compare decades, and draw it."

_LOOK = "print(f'{len(weekly):,} weeks are still in memory, to {weekly.index[-1]:%Y-%m-%d}')"


def run_demo(directory: Path) -> None:
    """Run the demo, and write what the assistant made to `directory`.

    Raises:
        ConfigurationError: A library is missing, or something did not go as it should.
    """
    check_demo(directory)
    if importlib.util.find_spec("langchain_openai") is None:
        raise ConfigurationError(
            f"The Assistants API lacks its packages: {install_command('assistants')}"
        )
    with tempfile.TemporaryDirectory(prefix="ci-tools-demo-") as state_dir:
        anyio.run(_run, Console(highlight=False), directory, Path(state_dir))


async def _run(console: Console, directory: Path, state_dir: Path) -> None:
    console.rule("[bold]ci-tools demo --assistants")
    console.print("Starting [bold]ci-tools serve[/] …")
    async with _serve(state_dir) as run:
        headers = {"Authorization": f"Bearer {run.secret}"}
        async with httpx2.AsyncClient(
            base_url=run.url, headers=headers, timeout=_RUN_LIMIT
        ) as http:
            session_id = await _Assistant(console, http, directory).answer()
            await _look_over_mcp(console, http, run.url, session_id)
    console.rule("[bold]done")


@asynccontextmanager
async def _serve(state_dir: Path) -> AsyncIterator[RunFile]:
    """Run the service on a free port while the block lasts."""
    environment = {
        **os.environ,
        "CI_TOOLS_STATE_DIR": str(state_dir),
        "CI_TOOLS_KERNEL_PYTHON": sys.executable,
        "CI_TOOLS_MODELS": json.dumps({"default": _MODEL}),
        "CI_TOOLS_AUTH": "token",
    }
    command = [sys.executable, "-m", "ci_tools_server", "serve", "--host", "127.0.0.1"]
    with (state_dir / "serve.log").open("wb") as log:
        process = await anyio.open_process(
            [*command, "--port", "0"], stdin=DEVNULL, stdout=DEVNULL, stderr=log, env=environment
        )
    async with process:
        try:
            yield await _wait_for_run(process, state_dir)
        finally:
            with anyio.CancelScope(shield=True):
                if process.returncode is None:
                    process.terminate()
                await process.wait()


async def _wait_for_run(process: Process, state_dir: Path) -> RunFile:
    with anyio.move_on_after(_START_LIMIT):
        while process.returncode is None:
            run = await anyio.to_thread.run_sync(find_run, state_dir)
            if run is not None:
                return run
            await anyio.sleep(0.1)
    lines = (state_dir / "serve.log").read_text(encoding="utf-8").strip().splitlines()
    raise ConfigurationError(f"The service did not start: {''.join(lines[-1:])}")


class _Assistant:
    """Asks the question, and shows the answer as it comes."""

    def __init__(self, console: Console, http: httpx2.AsyncClient, directory: Path) -> None:
        self._console = console
        self._http = http
        self._directory = directory
        self._begun: set[str] = set()
        """The ids of the steps that have a title."""

    async def answer(self) -> str:
        """Return the id of the session in which the answer's code ran."""
        thread_id, assistant_id = await self._ask()
        self._console.print(f"\n[bold]User[/]: {_QUESTION}")
        body = {"assistant_id": assistant_id, "stream": True}
        path = f"/v1/threads/{thread_id}/runs"
        async with self._http.stream("POST", path, json=body) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    await self._show(json.loads(line.removeprefix("data: ")))
        thread = await self._call("GET", f"/v1/threads/{thread_id}")
        if thread["session_id"] is None:
            raise ConfigurationError("No code ran; `ci-tools doctor` may say why.")
        return str(thread["session_id"])

    async def _ask(self) -> tuple[str, str]:
        """Make what a run needs; return the ids of thread and assistant."""
        form = {"files": {"file": (DATA, find_data().read_bytes())}}
        file = await self._call("POST", "/v1/files", data={"purpose": "assistants"}, **form)
        tool = {"type": "code_interpreter"}
        assistant = await self._call(
            "POST", "/v1/assistants", json={"model": "gpt-4o", "name": "Analyst", "tools": [tool]}
        )
        attached = [{"file_id": file["id"], "tools": [tool]}]
        message = {"role": "user", "content": _QUESTION, "attachments": attached}
        thread = await self._call("POST", "/v1/threads", json={"messages": [message]})
        self._console.print(
            f"Uploaded [bold]{DATA}[/], made an assistant for 'gpt-4o' and a thread over "
            "the Assistants API\n[yellow]A script of the demo stands for the model[/]; "
            "CI_TOOLS_MODELS or `ci-tools serve --model` names a real one"
        )
        return thread["id"], assistant["id"]

    async def _show(self, event: dict[str, Any]) -> None:
        """Show an object or delta of the stream."""
        match event.get("object"):
            case "thread.run.step.delta":
                for call in event["delta"]["step_details"].get("tool_calls", ()):
                    code = call["code_interpreter"]
                    self._write(code.get("input", ""), style="cyan")
                    for output in code.get("outputs") or ():
                        self._write(output.get("logs", ""), style="green")
            case "thread.run.step" if event["id"] not in self._begun:
                self._begun.add(event["id"])
                is_code = event["type"] == "tool_calls"
                title = "The code, as it is written" if is_code else "Assistant"
                self._console.print(f"\n[bold]{title}[/]")
            case "thread.message.delta":
                for part in event["delta"]["content"]:
                    self._write(part.get("text", {}).get("value", ""))
            case "thread.message" if event["status"] == "completed":
                self._console.print()
                await self._keep_files(event)
            case "thread.run" if event["status"] in ("failed", "expired", "incomplete"):
                reason = (event["last_error"] or {}).get("message", event["status"])
                raise ConfigurationError(f"The run of the demo did not end well: {reason}")

    def _write(self, text: str | None, *, style: str = "") -> None:
        self._console.print(escape(text or ""), end="", style=style, soft_wrap=True)

    async def _keep_files(self, message: dict[str, Any]) -> None:
        for part in message["content"]:
            for annotation in part.get("text", {}).get("annotations", ()):
                file_id = annotation["file_path"]["file_id"]
                content = await self._http.get(f"/v1/files/{file_id}/content")
                path = self._directory / PurePosixPath(annotation["text"]).name
                path.write_bytes(content.content)
                size = f"({len(content.content):,} bytes)"
                self._console.print(f"Wrote [bold]{escape(str(path))}[/] {size}")

    async def _call(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        response = await self._http.request(method, path, **body)
        if response.status_code != 200:
            raise ConfigurationError(f"{method} {path} was answered: {response.text[:500]}")
        return dict(response.json())


async def _look_over_mcp(
    console: Console, http: httpx2.AsyncClient, url: str, session_id: str
) -> None:
    """Use the session of the thread as an MCP client does."""
    console.print(f"\nThe same session over MCP at [bold]{url}/mcp[/]: {session_id}")
    console.print(f"[bold]run_code[/] {escape(_LOOK)}")
    async with Client(streamable_http_client(f"{url}/mcp", http_client=http)) as client:
        arguments = {"session_id": session_id, "code": _LOOK}
        result = await client.call_tool("run_code", arguments)
    for block in result.content:
        if isinstance(block, TextContent):
            console.print(escape(block.text.strip()), style="green")
    if result.is_error:
        raise ConfigurationError("The session could not be used over MCP.")
