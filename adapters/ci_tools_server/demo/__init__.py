"""`ci-tools demo`: real data through a real MCP client, with every step on the screen.

The demo is a client like any other: it starts `ci-tools mcp` as a child process and knows only the
Model Context Protocol. Its state is kept in a temporary directory.
"""

import importlib.util
import os
import shlex
import sys
import tempfile
import time
from base64 import b64decode
from pathlib import Path
from typing import Any

import anyio
from mcp import Client, StdioServerParameters
from mcp.types import BlobResourceContents, CallToolResult, ImageContent, TextContent
from rich.console import Console, Group
from rich.markup import escape
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from ci_tools import ConfigurationError
from ci_tools_server.demo.analysis import DATA, MOVES, PLOT, Move
from ci_tools_server.demo.headings import add_headings

NOTEBOOK = "mauna_loa_co2.ipynb"
"""What the session is saved as."""

_STEP_LIMIT = 60.0
"""Seconds that one call may take."""

_HEAD, _TAIL = 5, 2
"""Lines of a failure that are shown from its start and from its end."""

_NEEDED = ("numpy", "pandas", "matplotlib")


def run_demo(directory: Path) -> None:
    """Run the demo, and write the plot and the notebook to `directory`.

    Raises:
        ConfigurationError: A library is missing, or a step did not go as it should.
    """
    check_demo(directory)
    with tempfile.TemporaryDirectory(prefix="ci-tools-demo-") as state_dir:
        anyio.run(_Demo(Console(highlight=False), directory, Path(state_dir)).run)


def check_demo(directory: Path) -> None:
    """Raise ConfigurationError if the demo cannot compute, or write its results."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        command = shlex.join([sys.executable, "-m", "pip", "install", *_NEEDED])
        raise ConfigurationError(
            f"The demo computes with {', '.join(missing)}, which is not installed: {command}"
        )
    if not directory.is_dir():
        raise ConfigurationError(f"{directory} is no directory: the results cannot be written.")


def find_data() -> Path:
    """Return the data set: beside this module in a wheel, in examples/ in a checkout."""
    packaged = Path(__file__).with_name("data") / DATA
    checkout = Path(__file__).parents[3] / "examples" / "data" / DATA
    return packaged if packaged.exists() else checkout


class _Demo:
    def __init__(self, console: Console, directory: Path, state_dir: Path) -> None:
        self._console = console
        self._directory = directory
        self._server = StdioServerParameters(
            command=sys.executable,
            args=["-m", "ci_tools_server", "mcp", "--no-default-session"],
            # Its kernels run in this environment, which has what they need: building their own
            # takes a minute and the network.
            env={"CI_TOOLS_LOG_LEVEL": "warning", "CI_TOOLS_KERNEL_PYTHON": sys.executable}
            | dict(os.environ)
            | {"CI_TOOLS_STATE_DIR": str(state_dir)},
        )
        self._session_id = ""

    async def run(self) -> None:
        started = time.monotonic()
        self._console.rule("[bold]ci-tools demo")
        self._console.print("Starting [bold]ci-tools mcp[/] and connecting to it over stdio …")
        async with Client(self._server, read_timeout_seconds=_STEP_LIMIT) as client:
            await self._introduce(client, time.monotonic() - started)
            await self._upload(client)
            await self._show_isolation(client)
            for number, move in enumerate(MOVES, 1):
                await self._run(client, number, move)
            await self._keep_results(client)
            await client.call_tool("close_session", {"session_id": self._session_id})
        seconds = time.monotonic() - started
        self._console.rule(f"[bold]done in {seconds:.1f} s")

    async def _introduce(self, client: Client, seconds: float) -> None:
        info = client.server_info
        tools = (await client.list_tools()).tools
        name = f"{info.name} {info.version}" if info else "the server"
        self._console.print(
            f"Connected to {escape(name)} in {seconds:.2f} s, protocol {client.protocol_version}, "
            f"{len(tools)} tools: {', '.join(tool.name for tool in tools)}"
        )
        session = await self._call(client, "create_session", {"name": "demo"})
        content = session.structured_content or {}
        self._session_id = str(content["session_id"])
        self._console.print(f"Session [bold]{self._session_id}[/]")

    async def _upload(self, client: Client) -> None:
        path = find_data()
        text = path.read_text(encoding="utf-8")
        result = await self._call(
            client,
            "upload_file",
            {"session_id": self._session_id, "path": DATA, "content": text},
        )
        size = (result.structured_content or {}).get("size")
        self._console.print(
            f"Uploaded [bold]{DATA}[/] ({size:,} bytes): weekly carbon dioxide at Mauna Loa, "
            "Keeling and Whorf (CDIAC, 2004), public domain"
        )

    async def _show_isolation(self, client: Client) -> None:
        # A first command starts the kernel, and from then on it is known what holds it.
        arguments = {"session_id": self._session_id, "command": "ls -l"}
        result = await self._call(client, "run_command", arguments)
        listed = (await self._call(client, "list_sessions", {})).structured_content or {}
        isolation = listed["sessions"][0].get("isolation", "none")
        if isolation == "none":
            self._console.print("[yellow]Isolation: none: code runs with your rights.[/]")
        else:
            self._console.print(
                f"Isolation: [bold]{isolation}[/]: code sees the system read-only and of your files"
                " only /mnt/data, and has no network unless you allow it"
            )
        self._console.print(
            "For the demo, kernels use this installation's Python; `ci-tools kernels install`"
            " builds them an environment of their own"
        )
        self._console.print("[bold]run_command[/] ls -l")
        self._show_result(result)

    async def _run(self, client: Client, number: int, move: Move) -> None:
        self._console.print()
        self._console.print(f"[bold]{number}. {escape(move.title)}[/]")
        code = Syntax(move.code.rstrip(), "python", word_wrap=True, background_color="default")
        self._console.print(Panel(code, title="run_code", title_align="left", border_style="blue"))
        with self._console.status("running …") as status:

            async def show_progress(
                progress: float, total: float | None, message: str | None
            ) -> None:
                if not move.counts:
                    return
                status.update(f"running: {escape((message or '…')[-60:])}")
                if message and not self._console.is_terminal:
                    self._console.print(f"   progress: {escape(message[-60:])}", style="dim")

            result = await client.call_tool(
                "run_code",
                {"session_id": self._session_id, "code": move.code},
                progress_callback=show_progress,
            )
        self._show_result(result)
        if bool(result.is_error) is not move.fails:
            raise ConfigurationError(
                "A step of the demo did not go as it should; `ci-tools doctor` may say why."
            )

    def _show_result(self, result: CallToolResult) -> None:
        parts: list[Text] = []
        for block in result.content:
            if isinstance(block, TextContent):
                text = block.text.strip()
                parts.append(Text.from_ansi(_shorten(text) if result.is_error else text))
            elif isinstance(block, ImageContent):
                size = len(b64decode(block.data))
                parts.append(Text(f"[{block.mime_type}, {size:,} bytes]", style="magenta"))
        colour, title = ("red", "failed") if result.is_error else ("green", "completed")
        self._console.print(
            Panel(Group(*parts), title=title, title_align="left", border_style=colour)
        )

    async def _keep_results(self, client: Client) -> None:
        self._console.print()
        arguments = {"session_id": self._session_id}
        steps = (await self._call(client, "list_run_steps", arguments)).structured_content or {}
        files = (await self._call(client, "list_files", arguments)).structured_content or {}
        self._console.print(_step_table(steps["steps"]))
        self._console.print(_file_table(files["files"]))
        base = f"ci://sessions/{self._session_id}"
        await self._keep(client, f"{base}/files/{PLOT}", PLOT)
        await self._keep(client, f"{base}/notebook.ipynb", NOTEBOOK)
        self._write(DATA, find_data().read_bytes())  # the notebook reads it

    async def _keep(self, client: Client, uri: str, name: str) -> None:
        content = (await client.read_resource(uri)).contents[0]
        if isinstance(content, BlobResourceContents):
            data = b64decode(content.blob)
        else:
            data = content.text.encode()
        if name == NOTEBOOK:
            data = add_headings(data)
        self._write(name, data)

    def _write(self, name: str, data: bytes) -> None:
        path = self._directory / name
        path.write_bytes(data)
        self._console.print(f"Wrote [bold]{escape(str(path))}[/] ({len(data):,} bytes)")

    async def _call(self, client: Client, tool: str, arguments: dict[str, Any]) -> CallToolResult:
        result = await client.call_tool(tool, arguments)
        if result.is_error:
            self._show_result(result)
            raise ConfigurationError(f"The demo's call of {tool} failed; `ci-tools doctor` helps.")
        return result


def _shorten(text: str) -> str:
    """Leave out the middle of a traceback: on the screen, only its ends are of interest."""
    lines = text.splitlines()
    if len(lines) <= _HEAD + _TAIL:
        return text
    return "\n".join([*lines[:_HEAD], "…", *lines[-_TAIL:]])


def _step_table(steps: list[dict[str, Any]]) -> Table:
    table = Table(title="Steps of the session", title_justify="left")
    for column in ("step", "status", "seconds", "files"):
        table.add_column(column)
    for step in reversed(steps):
        seconds = step.get("duration_s")
        table.add_row(
            step["step_id"],
            step["status"],
            "" if seconds is None else f"{seconds:.2f}",
            ", ".join(step.get("files", [])),
        )
    return table


def _file_table(files: list[dict[str, Any]]) -> Table:
    table = Table(title="Files in /mnt/data", title_justify="left")
    table.add_column("file")
    table.add_column("bytes", justify="right")
    for file in files:
        table.add_row(file["path"], f"{file['size']:,}")
    return table
