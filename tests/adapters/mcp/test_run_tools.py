import base64

import anyio
import pytest
from mcp import Client

from ci_tools import LOCAL, RunStep, SessionService, StepStatus
from ci_tools_mcp import progress
from ci_tools_mcp.content import META_KEY
from tests.adapters.mcp.servers import (
    body_of,
    call,
    images_of,
    links_of,
    make_server,
    session_of,
    step_of,
    structured,
    text_of,
)

SLEEP = "import time\nprint('sleeping', flush=True)\ntime.sleep(60)"

PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(100)).decode()


def show_image(data: str = PIXEL, *, times: int = 1) -> str:
    return f"for i in range({times}): display({{'image/png': {data!r}}}, raw=True)"


async def test_code_runs_and_the_result_names_session_and_step(client: Client) -> None:
    result = await call(client, "run_code", code="print('hello')\n6 * 7")

    assert not result.is_error
    assert body_of(result) == "stdout:\nhello\nresult:\n42"
    assert session_of(result).startswith("sess_")
    assert step_of(result).startswith("step_")
    assert "| completed" in text_of(result)


async def test_results_have_no_structured_content_but_a_machine_copy(client: Client) -> None:
    result = await call(client, "run_code", code="1 / 0")

    assert result.structured_content is None
    assert result.meta is not None
    run = result.meta[META_KEY]
    assert run["status"] == "failed"
    assert run["error"]["code"] == "code_error"
    assert run["session_id"] == session_of(result)


async def test_variables_stay_in_the_default_session(client: Client) -> None:
    first = await call(client, "run_code", code="x = 41")
    second = await call(client, "run_code", code="x + 1")

    assert body_of(second) == "42"
    assert session_of(first) == session_of(second)


async def test_another_host_has_another_default_session_and_finds_the_first_by_its_id(
    service: SessionService,
) -> None:
    async with Client(make_server(service)) as client:
        first = session_of(await call(client, "run_code", code="x = 41"))

    async with Client(make_server(service)) as client:
        own = await call(client, "run_code", code="'x' in globals()")
        again = await call(client, "run_code", code="x + 1", session_id=first)

    assert session_of(own) != first
    assert body_of(own) == "False"
    assert body_of(again) == "42"


async def test_a_default_session_that_was_never_used_goes_with_its_host(
    service: SessionService,
) -> None:
    async with Client(make_server(service)) as client:
        await structured(client, "list_files")
        assert len(await service.list_sessions()) == 1

    assert await service.list_sessions() == []


async def test_a_closed_default_session_is_replaced(client: Client) -> None:
    first = session_of(await call(client, "run_code", code="x = 41"))
    await structured(client, "close_session", session_id=first)

    again = await call(client, "run_code", code="'x' in globals()")

    assert session_of(again) != first
    assert body_of(again) == "False"


async def test_a_default_session_that_went_away_elsewhere_is_replaced(
    client: Client, service: SessionService
) -> None:
    first = session_of(await call(client, "run_code", code="x = 41"))
    await service.close_session(first)

    again = await call(client, "run_code", code="1")

    assert not again.is_error
    assert session_of(again) != first


async def test_without_a_default_session_each_call_gets_a_new_one(http_client: Client) -> None:
    first = await call(http_client, "run_code", code="x = 41")
    second = await call(http_client, "run_code", code="'x' in globals()")
    third = await call(http_client, "run_code", code="x", session_id=session_of(first))

    assert session_of(first) != session_of(second)
    assert body_of(second) == "False"
    assert body_of(third) == "41"


async def test_code_that_raises_is_an_error_with_its_traceback(client: Client) -> None:
    result = await call(client, "run_code", code="raise ValueError('no')")

    assert result.is_error
    assert "ValueError: no" in text_of(result)
    assert "\x1b" not in text_of(result)


async def test_code_past_its_limit_is_expired(client: Client) -> None:
    result = await call(client, "run_code", code=SLEEP, timeout_s=0.5)

    assert result.is_error
    assert "| expired" in text_of(result)
    assert "Error (timeout)" in text_of(result)


@pytest.mark.parametrize("arguments", [{"timeout_s": 1e9}, {"timeout_s": -1}, {"wait_s": -1}])
async def test_impossible_limits_are_refused(client: Client, arguments: dict[str, float]) -> None:
    result = await call(client, "run_code", code="1", **arguments)

    assert result.is_error


async def test_unknown_and_foreign_sessions_look_alike(
    client: Client, service: SessionService
) -> None:
    foreign = (await service.act_as("bob").create_session()).id
    unknown = "sess_" + "0" * 24

    texts = [
        text_of(await call(client, "run_code", code="1", session_id=id)).replace(id, "…")
        for id in (foreign, unknown)
    ]

    assert texts[0] == texts[1]
    assert "create_session" in texts[0]


async def test_unknown_and_foreign_steps_look_alike(
    client: Client, service: SessionService
) -> None:
    bob = service.act_as("bob")
    step = await bob.run_code((await bob.create_session()).id, "secret = 1")
    unknown = "step_" + "0" * 24

    for tool in ("get_run_step", "cancel_run_step"):
        texts = [
            text_of(await call(client, tool, step_id=id)).replace(id, "…")
            for id in (step.id, unknown)
        ]
        assert texts[0] == texts[1]
        assert "list_run_steps" in texts[0]


async def test_an_unknown_kernel_is_refused_with_those_that_exist(client: Client) -> None:
    result = await call(client, "run_code", code="1", kernel="cobol")

    assert result.is_error
    assert "cobol" in text_of(result)


async def test_a_session_keeps_its_kernel(client: Client, service: SessionService) -> None:
    kernel = (await service.list_kernelspecs())[0].name
    session = await service.create_session(kernelspec=kernel)

    same = await call(client, "run_code", code="1", session_id=session.id, kernel=kernel)
    other = await call(client, "run_code", code="1", session_id=session.id, kernel="cobol")

    assert not same.is_error
    assert other.is_error
    assert "Leave kernel out" in text_of(other)


async def test_each_kernel_has_a_default_session(client: Client, service: SessionService) -> None:
    kernel = (await service.list_kernelspecs())[0].name

    plain = session_of(await call(client, "run_code", code="1"))
    named = session_of(await call(client, "run_code", code="1", kernel=kernel))
    again = session_of(await call(client, "run_code", code="1", kernel=kernel))

    assert plain != named == again


# Long-running code


async def test_a_call_returns_and_is_resumed(client: Client) -> None:
    started = await call(client, "run_code", code=SLEEP, wait_s=0)
    waiting = await call(client, "get_run_step", step_id=step_of(started), wait_s=0.1)
    cancelled = await structured(client, "cancel_run_step", step_id=step_of(started))
    ended = await call(client, "get_run_step", step_id=step_of(started), wait_s=5)

    assert not started.is_error
    assert "get_run_step" in text_of(started)
    assert not waiting.is_error
    assert cancelled["status"] == "cancelled"
    assert ended.is_error
    assert "| cancelled" in text_of(ended)


async def test_the_wait_is_capped_by_the_server(service: SessionService) -> None:
    async with Client(make_server(service, wait_limit=0.2)) as client:
        with anyio.fail_after(10):
            result = await call(client, "run_code", code=SLEEP, wait_s=1000)

        assert "in progress" in text_of(result)


async def test_cancel_keeps_the_variables(client: Client) -> None:
    await call(client, "run_code", code="x = 41")
    started = await call(client, "run_code", code=SLEEP, wait_s=0)
    await structured(client, "cancel_run_step", step_id=step_of(started))

    assert body_of(await call(client, "run_code", code="x + 1")) == "42"


@pytest.fixture
def quick_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "INTERVAL", 0.02)
    monkeypatch.setattr(progress, "HEARTBEAT", 0.05)


@pytest.mark.usefixtures("quick_progress")
async def test_progress_tells_the_last_line_and_goes_on_in_silence(
    service: SessionService,
) -> None:
    reports: list[tuple[float, str | None]] = []
    enough = anyio.Event()

    async def note(progress: float, total: float | None, message: str | None) -> None:
        reports.append((progress, message))
        if [text for _, text in reports].count("sleeping") == 3:
            enough.set()

    async with (
        # In process, only this mode sends a progress token.
        Client(make_server(service), mode="legacy") as client,
        anyio.create_task_group() as tasks,
    ):

        async def run() -> None:
            await client.call_tool("run_code", {"code": SLEEP}, progress_callback=note)

        tasks.start_soon(run)
        with anyio.fail_after(60):
            await enough.wait()
        tasks.cancel_scope.cancel()

    assert [progress for progress, _ in reports] == sorted({progress for progress, _ in reports})
    assert reports[-1][1] == "sleeping"


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_a_caller_that_cancels_cancels_the_step(service: SessionService, mode: str) -> None:
    async with Client(make_server(service), mode=mode) as client:
        session_id = session_of(await call(client, "run_code", code="x = 41"))
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: call(client, "run_code", code=SLEEP))
                running = await wait_for_output(service, session_id)
                tasks.cancel_scope.cancel()
            step = await service.wait_run_step(running.id)

        assert step.status is StepStatus.CANCELLED
        assert body_of(await call(client, "run_code", code="x + 1")) == "42"


async def wait_for_output(service: SessionService, session_id: str) -> RunStep:
    """Return the newest step of a session once it has printed something."""
    while True:
        step = (await service.list_run_steps(session_id, limit=1))[0]
        if not step.status.is_final and (await service.get_run_step(step.id)).outputs:
            return step
        await anyio.sleep(0.01)


async def test_who_only_looks_does_not_cancel_by_leaving(
    client: Client, service: SessionService
) -> None:
    started = await call(client, "run_code", code=SLEEP, wait_s=0)

    with anyio.move_on_after(0.1):
        await call(client, "get_run_step", step_id=step_of(started), wait_s=30)

    step = await service.get_run_step(step_of(started))
    assert not step.status.is_final


# Text


async def test_long_text_is_cut_and_read_on_by_offset(client: Client) -> None:
    code = "for i in range(10_000): print('line', i)"
    expected = "".join(f"line {i}\n" for i in range(10_000)).rstrip()

    result = await call(client, "run_code", code=code)
    pages, offset = [], 0
    while True:
        page = await call(client, "get_run_step", step_id=step_of(result), offset=offset)
        pages.append(body_of(page).partition("\nTo read on:")[0])
        offset += len(pages[-1])
        if "To read on:" not in text_of(page):
            break

    assert len(text_of(result)) < 21_000
    assert "offset=0" in text_of(result)
    assert "".join(pages) == expected


async def test_the_spooled_text_is_read_on_by_offset(small_service: SessionService) -> None:
    async with Client(make_server(small_service)) as client:
        result = await call(client, "run_code", code="print('ä' * 30_000)")
        first = await call(client, "get_run_step", step_id=step_of(result), offset=0)
        second = await call(client, "get_run_step", step_id=step_of(result), offset=20_000)
        odd = await call(client, "get_run_step", step_id=step_of(result), offset=59_999)

    assert "offset=0" in text_of(result)
    assert body_of(first).startswith("ä" * 10_000 + "\nTo read on")
    assert "offset=20000" in text_of(first)
    assert body_of(second).startswith("ä" * 10_000 + "\n")
    assert not odd.is_error


async def test_a_progress_bar_is_one_line(client: Client) -> None:
    code = "for i in range(101): print(f'\\r{i}%', end='')"

    assert body_of(await call(client, "run_code", code=code)) == "100%"


# Images and files


async def test_images_are_seen(client: Client) -> None:
    result = await call(client, "run_code", code=show_image())

    assert [(image.mime_type, image.data) for image in images_of(result)] == [("image/png", PIXEL)]


async def test_more_images_are_seen_by_another_call(client: Client) -> None:
    result = await call(client, "run_code", code=show_image(times=6))
    more = await call(client, "get_run_step", step_id=step_of(result), image=5)

    assert len(images_of(result)) == 4
    assert "image=5" in text_of(result)
    assert len(images_of(more)) == 2
    assert len([uri for uri in links_of(result) if uri.endswith(".png")]) == 2


async def test_a_large_image_is_a_link(client: Client) -> None:
    code = "import base64\n" + show_image("@").replace(
        "'@'", "base64.b64encode(b'\\x89PNG' + bytes(800_000)).decode()"
    )

    result = await call(client, "run_code", code=code)
    contents = (await client.read_resource(links_of(result)[0])).contents

    assert images_of(result) == []
    assert "800,004 bytes" in text_of(result)
    assert contents[0].mime_type == "image/png"


async def test_changed_files_are_named_and_linked(client: Client) -> None:
    result = await call(client, "run_code", code="open('ä b.csv', 'w').write('x,y')")

    assert "- created ä b.csv (3 bytes)" in text_of(result)
    uri = f"ci://sessions/{session_of(result)}/files/%C3%A4%20b.csv"
    assert links_of(result) == [uri]
    assert (await client.read_resource(uri)).contents[0].mime_type == "text/csv"


async def test_links_can_be_switched_off(service: SessionService) -> None:
    async with Client(make_server(service, resource_links=False)) as client:
        result = await call(client, "run_code", code="open('a.csv', 'w').write('x,y')")

    assert links_of(result) == []


async def test_a_new_kernel_is_said(client: Client) -> None:
    session_id = session_of(await call(client, "run_code", code="x = 1"))
    await call(client, "run_code", code="import os; os._exit(1)")

    result = await call(client, "run_code", code="'x' in globals()", session_id=session_id)

    assert not result.is_error
    assert "Note:" in text_of(result)


# History


async def test_steps_are_listed_newest_first_in_pages(client: Client) -> None:
    results = [await call(client, "run_code", code=f"{number}") for number in range(5)]
    ids = [step_of(result) for result in results]

    first = await structured(client, "list_run_steps", limit=3)
    rest = await structured(
        client, "list_run_steps", session_id=first["session_id"], limit=3, before=first["next"]
    )

    listed = [step["step_id"] for step in first["steps"] + rest["steps"]]
    assert listed == ids[::-1]
    assert "next" not in rest
    assert first["steps"][0]["code_preview"] == "4"
    assert first["steps"][0]["status"] == "completed"


async def test_the_default_session_belongs_to_local(
    client: Client, service: SessionService
) -> None:
    session_id = session_of(await call(client, "run_code", code="1"))

    assert (await service.get_session(session_id)).principal == LOCAL
