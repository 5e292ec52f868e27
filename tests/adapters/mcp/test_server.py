import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from mcp import Client

from ci_tools import ConfigurationError, SessionService
from ci_tools_mcp import create_server
from ci_tools_mcp.access import Access, Options
from tests.adapters.mcp.servers import body_of, call, make_server, text_of

TOOLS = [
    "run_code",
    "get_run_step",
    "cancel_run_step",
    "list_run_steps",
    "run_command",
    "upload_file",
    "list_files",
    "read_file",
    "create_session",
    "list_sessions",
    "restart_session",
    "close_session",
]


async def test_the_list_of_tools_is_short_and_complete(client: Client) -> None:
    result = await client.list_tools()

    size = len(json.dumps(result.model_dump(by_alias=True, exclude_none=True, mode="json")))
    assert size <= 8_000
    assert [tool.name for tool in result.tools] == TOOLS
    for tool in result.tools:
        assert tool.title
        assert tool.description
        assert "  " not in tool.description
        assert tool.annotations is not None
        hints = tool.annotations.model_dump(exclude={"title"})
        assert all(isinstance(hint, bool) for hint in hints.values())
        assert len(hints) == 4


async def test_only_running_code_and_destroying_ask_for_care(client: Client) -> None:
    annotations = {tool.name: tool.annotations for tool in (await client.list_tools()).tools}

    destructive = {name for name, hints in annotations.items() if hints and hints.destructive_hint}
    read_only = {name for name, hints in annotations.items() if hints and hints.read_only_hint}
    assert destructive == {
        "run_code",
        "run_command",
        "upload_file",
        "restart_session",
        "close_session",
    }
    assert read_only == {
        "get_run_step",
        "list_run_steps",
        "list_files",
        "read_file",
        "list_sessions",
    }


async def test_lists_may_be_cached_and_contents_not(client: Client) -> None:
    tools = await client.list_tools()
    about = await client.read_resource("ci://about")

    assert (tools.ttl_ms, tools.cache_scope) == (3_600_000, "public")
    assert (about.ttl_ms, about.cache_scope) == (0, "private")


async def test_null_is_taken_for_left_out(client: Client) -> None:
    result = await client.call_tool(
        "run_code", {"code": "1", "session_id": None, "kernel": None, "timeout_s": None}
    )

    assert not result.is_error


async def test_a_host_is_answered_before_the_service_is_open(service: SessionService) -> None:
    may_open = anyio.Event()

    @asynccontextmanager
    async def open_late() -> AsyncIterator[SessionService]:
        await may_open.wait()
        yield service

    server = create_server(open_late, default_session=True)
    with anyio.fail_after(10):
        async with Client(server) as client:
            tools = (await client.list_tools()).tools
            async with anyio.create_task_group() as tasks:
                results = []

                async def run() -> None:
                    results.append(await call(client, "run_code", code="6 * 7"))

                tasks.start_soon(run)
                await anyio.wait_all_tasks_blocked()
                assert results == []
                may_open.set()

    assert len(tools) == len(TOOLS)
    assert body_of(results[0]) == "42"


async def test_nothing_is_opened_for_a_host_that_says_nothing() -> None:
    @asynccontextmanager
    async def never() -> AsyncIterator[SessionService]:
        raise AssertionError("opened")
        yield

    access = Access(
        Options(default_session=True, resource_links=True, wait_limit=1, public_url=None)
    )
    async with access.open(never):
        await anyio.wait_all_tasks_blocked()


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConfigurationError("The setting X cannot work."), "The setting X cannot work."),
        (RuntimeError("secret"), "RuntimeError"),
    ],
)
async def test_every_tool_says_that_the_service_did_not_open(error: Exception, text: str) -> None:
    @asynccontextmanager
    async def fail_to_open() -> AsyncIterator[SessionService]:
        raise error
        yield

    async with Client(create_server(fail_to_open, default_session=True)) as client:
        tools = (await client.list_tools()).tools
        for tool in tools:
            required = tool.input_schema.get("required", [])
            result = await client.call_tool(tool.name, dict.fromkeys(required, "x"))

            assert result.is_error
            assert text in text_of(result)
            assert "ci-tools doctor" in text_of(result)
            assert "secret" not in text_of(result)


class _NotingService(SessionService):
    """A service that notes when it is warmed up."""

    def __init__(self, service: SessionService) -> None:
        super().__init__(service._engine, service.principal)
        self.warmed = anyio.Event()

    def act_as(self, principal: str) -> SessionService:
        return self

    async def warm_up(self) -> None:
        await super().warm_up()
        self.warmed.set()


@pytest.mark.parametrize("default_session", [True, False])
async def test_the_place_of_kernels_is_warmed_up_and_no_session_is_made(
    service: SessionService, default_session: bool
) -> None:
    noting = _NotingService(service)
    async with Client(make_server(noting, default_session=default_session)) as client:
        await client.list_tools()
        with anyio.fail_after(10):
            await noting.warmed.wait()

        assert await service.list_sessions() == []


async def test_the_default_session_is_made_at_its_first_use(client: Client) -> None:
    await call(client, "run_code", code="1")

    listed = await client.call_tool("list_sessions", {})
    assert "default-" in text_of(listed)


async def test_unknown_arguments_are_refused_with_the_right_names(client: Client) -> None:
    result = await call(client, "run_code", code="1", sesion_id="sess_x")

    assert result.is_error
    assert "'sesion_id'" in text_of(result)
    assert "code, session_id, kernel" in text_of(result)
    assert "\n" not in text_of(result)
    for tool in (await client.list_tools()).tools:
        assert tool.input_schema["additionalProperties"] is False


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, "the argument code is missing"),
        ({"code": "1", "timeout_s": -1}, "timeout_s: input should be greater than 0"),
        ({"code": 1}, "code: input should be a valid string"),
    ],
)
async def test_wrong_arguments_are_explained_in_one_line(
    client: Client, arguments: dict[str, Any], text: str
) -> None:
    result = await client.call_tool("run_code", arguments)

    assert result.is_error
    assert text in text_of(result)
    assert "pydantic" not in text_of(result)
    assert "run_codeArguments" not in text_of(result)
    assert "\n" not in text_of(result)


async def test_no_session_is_made_for_http_before_somebody_asks(service: SessionService) -> None:
    async with Client(make_server(service, default_session=False)) as client:
        await client.list_tools()

    assert await service.list_sessions() == []


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    script = "import sys, ci_tools_mcp; print(*sys.modules)"

    modules = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()

    heavy = {"sqlalchemy", "alembic", "nbformat", "obstore", "jupyter_client", "jupyter_server"}
    assert heavy & set(modules) == set()
