import anyio
from mcp import Client

from ci_tools import SessionService
from tests.adapters.mcp.servers import (
    body_of,
    call,
    make_server,
    session_of,
    structured,
    text_of,
)


async def test_a_session_is_made_and_named(client: Client) -> None:
    created = await structured(client, "create_session", name="analysis")
    result = await call(client, "run_code", code="1", session_id=created["session_id"])

    assert created["name"] == "analysis"
    assert created["isolation"] == "none"
    assert created["kernel_stops_after_idle_s"] == 3600
    assert session_of(result) == created["session_id"]


async def test_an_unknown_kernel_or_server_makes_no_session(client: Client) -> None:
    for arguments in ({"kernel": "cobol"}, {"server": "moon"}):
        result = await call(client, "create_session", **arguments)

        assert result.is_error
        assert next(iter(arguments.values())) in text_of(result)


async def test_own_sessions_are_listed_last_used_first(
    http_client: Client, service: SessionService
) -> None:
    await service.act_as("bob").create_session()
    first = (await structured(http_client, "create_session"))["session_id"]
    second = (await structured(http_client, "create_session"))["session_id"]
    await call(http_client, "run_code", code="1", session_id=first)

    listed = (await structured(http_client, "list_sessions"))["sessions"]

    assert [session["session_id"] for session in listed] == [first, second]
    assert listed[0]["kernel_running"] is True


async def test_a_restart_loses_variables(client: Client) -> None:
    session_id = session_of(await call(client, "run_code", code="x = 41"))

    restarted = await structured(client, "restart_session", session_id=session_id)
    result = await call(client, "run_code", code="'x' in globals()")

    assert restarted["status"] == "restarted"
    assert restarted["replayed"] == []
    assert body_of(result).endswith("False")


async def test_a_restart_with_replay_gets_them_back(client: Client) -> None:
    session_id = session_of(await call(client, "run_code", code="x = 41"))
    await call(client, "run_code", code="x += 1")

    restarted = await structured(client, "restart_session", session_id=session_id, replay=True)
    result = await call(client, "run_code", code="x")

    assert [step["status"] for step in restarted["replayed"]] == ["completed", "completed"]
    assert body_of(result).endswith("42")


async def test_a_long_replay_goes_on_behind_the_call(service: SessionService) -> None:
    async with Client(make_server(service, wait_limit=0.3)) as client:
        code = "import time\ntime.sleep(0.5)\nx = 42"
        step = await service.run_code(await service_session(client), code)

        answer = await structured(
            client, "restart_session", session_id=step.session_id, replay=True
        )
        with anyio.fail_after(20):
            while (await service.list_run_steps(step.session_id, limit=1))[0].epoch < 2:
                await anyio.sleep(0.02)
            newest = (await service.list_run_steps(step.session_id, limit=1))[0]
            await service.wait_run_step(newest.id)
        result = await call(client, "run_code", code="x", session_id=step.session_id)

    assert answer["status"] == "in_progress"
    assert body_of(result).endswith("42")


async def service_session(client: Client) -> str:
    return str((await structured(client, "create_session"))["session_id"])


async def test_a_closed_session_is_gone(client: Client) -> None:
    session_id = session_of(await call(client, "run_code", code="1"))

    closed = await structured(client, "close_session", session_id=session_id)

    assert closed == {"session_id": session_id, "closed": True}
    for tool in ("close_session", "restart_session", "list_run_steps", "list_files"):
        assert (await call(client, tool, session_id=session_id)).is_error


async def test_foreign_sessions_cannot_be_touched(client: Client, service: SessionService) -> None:
    foreign = (await service.act_as("bob").create_session()).id

    for tool in ("close_session", "restart_session", "list_run_steps", "list_files"):
        assert (await call(client, tool, session_id=foreign)).is_error
    for tool in ("read_file", "upload_file"):
        assert (await call(client, tool, session_id=foreign, path="a")).is_error
    assert (await service.act_as("bob").get_session(foreign)).id == foreign


async def test_a_session_id_is_asked_for_where_there_is_no_default(http_client: Client) -> None:
    for tool in ("list_files", "list_run_steps"):
        result = await call(http_client, tool)

        assert result.is_error
        assert "session_id is missing" in text_of(result)
