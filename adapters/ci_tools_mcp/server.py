"""The MCP server: tools, resources, prompts and completions over one session service."""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from mcp.server.caching import CacheHint
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import MCPError
from mcp.types import (
    INVALID_PARAMS,
    CallToolResult,
    Completion,
    CompletionArgument,
    CompletionContext,
    GetPromptResult,
    InputRequiredResult,
    PromptReference,
    ResourceTemplateReference,
    Tool,
    ToolAnnotations,
)
from pydantic import AnyUrl, ValidationError

from ci_tools_mcp import command_tools, file_tools, run_tools, session_tools
from ci_tools_mcp.access import Access, OpenService, Options
from ci_tools_mcp.arguments import check_names, explain_arguments
from ci_tools_mcp.completions import complete
from ci_tools_mcp.prompts import add_prompts
from ci_tools_mcp.resources import add_resources, find_media_type

INSTRUCTIONS = """\
run_code runs code in a live Jupyter kernel; its result names the session_id. Pass the same \
session_id again: variables, imports and files in /mnt/data (the working directory) stay.
If a result says that the kernel was restarted, variables are lost; files are kept.
If a result says that code still runs, call get_run_step with its step_id; do not run it again.
Save tables and plots as files in /mnt/data for the user; show plots to see them yourself.
Do not count on access to the internet: what code cannot download, ask the user for as a file.
After a break, list_sessions and list_run_steps tell what there is."""

WAIT_LIMIT = 50.0
"""Seconds; some hosts give up on a call after 60."""

_HOUR_MS = 3_600_000


def create_server(
    open_service: OpenService,
    *,
    default_session: bool,
    resource_links: bool = True,
    wait_limit: float = WAIT_LIMIT,
    public_url: str | None = None,
) -> MCPServer[Access]:
    """Return a server whose lifespan opens the service in the background.

    With `default_session` (stdio) calls without a session id share one session of this process;
    without it (HTTP) each gets a new one. `wait_limit` is in seconds. Under `public_url` tickets
    for large files are redeemed; None where there is no HTTP face. Whoever serves this over HTTP
    verifies tokens; a call acts for the subject of its token, or for `local` if it has none.
    """
    options = Options(
        default_session=default_session,
        resource_links=resource_links,
        wait_limit=wait_limit,
        public_url=public_url.rstrip("/") if public_url else None,
    )
    running: list[Access] = []

    @asynccontextmanager
    async def lifespan(_: MCPServer[Access]) -> AsyncIterator[Access]:
        async with Access(options).open(open_service) as access:
            running.append(access)
            try:
                yield access
            finally:
                running.remove(access)

    server = _Server(lifespan)
    _add_tools(server)
    add_resources(server, lambda: running[-1])
    add_prompts(server)

    async def handle_completion(
        ref: PromptReference | ResourceTemplateReference,
        argument: CompletionArgument,
        context: CompletionContext | None,
    ) -> Completion:
        # Completion handlers get no request context; the newest run of the server answers.
        service = await running[-1].service()
        known = (context.arguments if context else None) or {}
        return await complete(service, argument.name, argument.value, known)

    register: Callable[[Any], Any] = server.completion()  # type: ignore[no-untyped-call]
    register(handle_completion)
    return server


class _Server(MCPServer[Access]):
    """An MCPServer with short tool schemas, media types by file, and clear errors for prompts."""

    def __init__(self, lifespan: Callable[[MCPServer[Access]], Any]) -> None:
        super().__init__(
            name="ci-tools",
            title="Code interpreter",
            description="Runs code in stateful Jupyter kernels, with files and history.",
            instructions=INSTRUCTIONS,
            version=_find_version(),
            lifespan=lifespan,
            log_level="WARNING",
            middleware=[_note_answer],
            cache_hints={
                "tools/list": CacheHint(ttl_ms=_HOUR_MS, scope="public"),
                "prompts/list": CacheHint(ttl_ms=_HOUR_MS, scope="public"),
                "resources/list": CacheHint(ttl_ms=_HOUR_MS, scope="public"),
                "resources/templates/list": CacheHint(ttl_ms=_HOUR_MS, scope="public"),
                "server/discover": CacheHint(ttl_ms=_HOUR_MS, scope="public"),
                "resources/read": CacheHint(ttl_ms=0, scope="private"),
            },
        )
        self._tools: list[Tool] | None = None

    async def list_tools(self) -> list[Tool]:
        """List the tools, without what pydantic adds to schemas and no model needs."""
        if self._tools is None:
            tools = await super().list_tools()
            self._tools = [_shorten(tool) for tool in tools]
        return self._tools

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[Access, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        """Call a tool; arguments that it does not have are refused, not ignored."""
        tool = self._tool_manager.get_tool(name)
        if tool is None:
            return await super().call_tool(name, arguments, context)
        model = tool.fn_metadata.arg_model
        check_names(name, model, arguments)
        try:
            return await super().call_tool(name, arguments, context)
        except ToolError as exc:
            if isinstance(exc.__cause__, ValidationError):
                raise ToolError(explain_arguments(name, model, exc.__cause__)) from exc
            raise

    async def read_resource(
        self, uri: AnyUrl | str, context: Context[Access, Any] | None = None
    ) -> Iterable[ReadResourceContents] | InputRequiredResult:
        """Read a resource; a file has the media type of its name, not that of its template."""
        contents = await super().read_resource(uri, context)
        media_type = find_media_type(str(uri))
        if isinstance(contents, InputRequiredResult) or media_type is None:
            return contents
        return [
            ReadResourceContents(content=item.content, mime_type=media_type, meta=item.meta)
            for item in contents
        ]

    async def get_prompt(
        self,
        name: str,
        arguments: dict[str, Any] | None = None,
        context: Context[Access, Any] | None = None,
    ) -> GetPromptResult | InputRequiredResult:
        """Get a prompt; what is wrong with the name or the arguments is the caller's to read."""
        try:
            return await super().get_prompt(name, arguments, context)
        except ValueError as exc:
            cause = exc.__cause__ if exc.__cause__ is not None else exc
            inner = cause.__cause__ if cause.__cause__ is not None else cause
            raise MCPError(code=INVALID_PARAMS, message=str(inner)) from exc


async def _note_answer(ctx: ServerRequestContext[Access], call_next: CallNext) -> HandlerResult:
    try:
        return await call_next(ctx)
    finally:
        ctx.lifespan_context.note_answer()


def _add_tools(server: MCPServer[Access]) -> None:
    """Register the tools with their titles and the four hints for hosts."""
    reads = ToolAnnotations(
        read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
    )
    server.add_tool(
        run_tools.run_code,
        title="Run code",
        annotations=ToolAnnotations(
            read_only_hint=False, destructive_hint=True, idempotent_hint=False, open_world_hint=True
        ),
    )
    server.add_tool(run_tools.get_run_step, title="Get a run step", annotations=reads)
    server.add_tool(
        run_tools.cancel_run_step, title="Cancel a run step", annotations=_changes(idempotent=True)
    )
    server.add_tool(run_tools.list_run_steps, title="List run steps", annotations=reads)
    server.add_tool(
        command_tools.run_command,
        title="Run a shell command",
        annotations=ToolAnnotations(
            read_only_hint=False, destructive_hint=True, idempotent_hint=False, open_world_hint=True
        ),
    )
    server.add_tool(
        file_tools.upload_file,
        title="Upload a file",
        annotations=_changes(destructive=True, idempotent=True),
    )
    server.add_tool(file_tools.list_files, title="List files", annotations=reads)
    server.add_tool(file_tools.read_file, title="Read a file", annotations=reads)
    server.add_tool(session_tools.create_session, title="Create a session", annotations=_changes())
    server.add_tool(session_tools.list_sessions, title="List sessions", annotations=reads)
    server.add_tool(
        session_tools.restart_session,
        title="Restart a session",
        annotations=_changes(destructive=True),
    )
    server.add_tool(
        session_tools.close_session,
        title="Close a session",
        annotations=_changes(destructive=True, idempotent=True),
    )


def _changes(*, destructive: bool = False, idempotent: bool = False) -> ToolAnnotations:
    return ToolAnnotations(
        read_only_hint=False,
        destructive_hint=destructive,
        idempotent_hint=idempotent,
        open_world_hint=False,
    )


def _shorten(tool: Tool) -> Tool:
    changes = {
        "description": " ".join((tool.description or "").split()),
        "input_schema": _short_schema(tool.input_schema),
        # An object of anything: true, and of no use to a reader.
        "output_schema": None,
    }
    return tool.model_copy(update=changes)


def _short_schema(schema: dict[str, Any]) -> dict[str, Any]:
    properties = {
        name: _short_property(value) for name, value in schema.get("properties", {}).items()
    }
    short = {key: value for key, value in schema.items() if key != "title"}
    return {**short, "properties": properties, "additionalProperties": False}


def _short_property(schema: dict[str, Any]) -> dict[str, Any]:
    """Write an optional property as one that may be left out; null is taken all the same."""
    short = {key: value for key, value in schema.items() if key != "title"}
    options = short.pop("anyOf", None)
    if options is not None:
        short = {**options[0], **short}
    if short.get("default", "") is None:
        del short["default"]
    return short


def _find_version() -> str:
    try:
        return version("code-interpreter-tools")
    except PackageNotFoundError:
        return "0"
