"""What a session service does, asked of the one in this process and of a client of it."""

import inspect
from collections.abc import AsyncIterator

import anyio
import pytest

from ci_tools import (
    BackendError,
    CommandDone,
    CommandOutput,
    DisplayOutput,
    FileTooLargeError,
    InvalidArgumentError,
    InvalidPathError,
    NotFoundError,
    RunStep,
    SessionService,
    StepFinished,
    StepOutput,
    StepStarted,
    StepStatus,
    StreamOutput,
    Uploads,
)
from ci_tools.models import new_id
from ci_tools_client import RemoteService, RemoteUploads
from tests.adapters.client.conftest import Either

FOREVER = "import time\nprint('started', flush=True)\nwhile True: time.sleep(0.01)"

NOT_REMOTE = {
    "act_as": "a token is of one principal",
    "admit": "adapters in the process",
    "count_live": "operators",
    "create_token": "operators",
    "database": "adapters in the process",
    "erase_principal": "operators",
    "find_principal": "whoever checks tokens",
    "lease": "adapters in the process",
    "list_tokens": "operators",
    "measure_load": "operators",
    "on_erase": "adapters in the process",
    "on_finished": "operators",
    "principal": "the token says it",
    "ready": "operators",
    "redeem_ticket": "whoever answers to tickets",
    "revoke_token": "operators",
    "settings": "operators",
    "warm_up": "the service does it when it starts",
}
"""What a client does not have, and whose it is."""


async def _joined(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


async def _read(service: Either, session_id: str, path: str, **part: int) -> bytes:
    async with service.open_file(session_id, path, **part) as chunks:
        return await _joined(chunks)


def _public(kind: type) -> dict[str, object]:
    return {name: value for name, value in vars(kind).items() if not name.startswith("_")}


def test_a_client_has_every_method_with_the_same_parameters() -> None:
    for local, remote in ((SessionService, RemoteService), (Uploads, RemoteUploads)):
        here, there = _public(local), _public(remote)
        assert set(there) == set(here) - set(NOT_REMOTE)
        for name in set(there) - {"uploads"}:
            wanted = inspect.signature(here[name])  # type: ignore[arg-type]
            found = inspect.signature(there[name])  # type: ignore[arg-type]
            assert found.parameters == wanted.parameters, name


async def test_sessions_are_created_found_listed_and_closed(service: Either) -> None:
    first = await service.create_session(name="Ünnamed", environment={"A": "1"})
    second = await service.create_session()
    found = await service.find_or_create_session("Ünnamed")
    made = await service.find_or_create_session("new")
    await service.run_code(first.id, "1")

    assert found == first and first.environment == ("A",)
    assert second.name is None and made.name == "new"
    listed = await service.list_sessions()
    assert [session.id for session in listed] == [first.id, made.id, second.id]
    assert listed[0] == await service.get_session(first.id)
    assert listed[0].kernel is not None

    await service.close_session(first.id)

    with pytest.raises(NotFoundError) as caught:
        await service.get_session(first.id)
    assert (caught.value.kind, caught.value.id) == ("session", first.id)


async def test_unknown_arguments_are_refused_with_the_same_errors(service: Either) -> None:
    with pytest.raises(InvalidArgumentError, match="kernel 'nope'"):
        await service.create_session(kernelspec="nope")
    with pytest.raises(InvalidArgumentError, match="server profile 'nope'"):
        await service.create_session(server="nope")
    session = await service.create_session()
    for timeout in (0, -1, 1e9, float("inf"), float("nan")):
        with pytest.raises(InvalidArgumentError):
            await service.run_code(session.id, "1", timeout=timeout)
    for command in (" ", "a\0b", "echo \ud83d"):
        with pytest.raises(InvalidArgumentError):
            await service.run_command(session.id, command)
    with pytest.raises(NotFoundError):
        await service.run_code("sess_gone", "1")
    with pytest.raises(NotFoundError):
        async with service.stream_code("sess_gone", "1") as events:
            await anext(events)
    for id in ("step_gone", "../containers", "", "step_ü"):
        with pytest.raises(NotFoundError):
            await service.get_run_step(id)
        with pytest.raises(NotFoundError):
            await service.cancel_run_step(id)


async def test_a_step_is_the_same_everywhere(service: Either, local: SessionService) -> None:
    session = await service.create_session()

    step = await service.run_code(
        session.id,
        "from IPython.display import display\nprint('é\\x00')\nopen('a.txt', 'w').write('x')\n"
        "display({'text/plain': 'shown'}, raw=True, display_id='d')\n6 * 7",
    )
    failed = await service.run_code(session.id, "1 / 0")

    assert step == await local.get_run_step(step.id)
    assert step.status is StepStatus.COMPLETED
    assert StreamOutput(name="stdout", text="é\x00\n") in step.outputs
    results = [output for output in step.outputs if isinstance(output, DisplayOutput)]
    assert results[-1].data == {"text/plain": "42"}
    assert [(file.path, file.change) for file in step.files] == [("a.txt", "created")]
    assert failed == await local.get_run_step(failed.id)
    assert failed.error is not None and failed.error.code == "code_error"
    assert await service.list_run_steps(session.id) == [failed, step]
    assert await service.list_run_steps(session.id, limit=1) == [failed]
    assert await service.list_run_steps(session.id, limit=0) == []
    assert await service.list_run_steps(session.id, before=failed.id) == [step]


async def test_code_is_streamed_to_its_end(service: Either) -> None:
    session = await service.create_session()

    async with service.stream_code(session.id, "print('one', flush=True)\nprint('two')") as events:
        seen = [event async for event in events]

    assert any(isinstance(event, StepStarted) for event in seen)
    text = "".join(
        event.output.text
        for event in seen
        if isinstance(event, StepOutput) and isinstance(event.output, StreamOutput)
    )
    assert text == "one\ntwo\n"
    last = seen[-1]
    assert isinstance(last, StepFinished)
    assert last.step == await service.get_run_step(last.step.id)


async def test_leaving_a_stream_cancels_the_step(service: Either) -> None:
    session = await service.create_session()
    await service.run_code(session.id, "kept = 1")

    with anyio.fail_after(20):
        async with service.stream_code(session.id, FOREVER) as events:
            async for event in events:
                if isinstance(event, StepOutput):
                    break
        [step] = await service.list_run_steps(session.id, limit=1)
        after = await service.run_code(session.id, "kept")

    assert step.status is StepStatus.CANCELLED
    assert after.status is StepStatus.COMPLETED


async def test_an_error_in_the_block_of_a_stream_cancels_the_step(service: Either) -> None:
    session = await service.create_session()

    with anyio.fail_after(20):
        with pytest.raises(NotFoundError):
            async with service.stream_code(session.id, FOREVER) as events:
                await anext(aiter(events))
                await service.get_session("sess_gone")
        [step] = await service.list_run_steps(session.id)

    assert step.status is StepStatus.CANCELLED


async def test_cancelling_the_caller_cancels_the_step(
    service: Either, local: SessionService
) -> None:
    session = await service.create_session()
    await service.run_code(session.id, "kept = 1")

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(service.run_code, session.id, FOREVER)
            while len(await local.list_run_steps(session.id)) < 2:
                await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()
        [step] = await service.list_run_steps(session.id, limit=1)
        after = await service.run_code(session.id, "kept")

    assert step.status is StepStatus.CANCELLED
    assert after.status is StepStatus.COMPLETED


async def test_a_submitted_step_is_watched_waited_for_and_cancelled(service: Either) -> None:
    session = await service.create_session()
    id = new_id("step_")

    with anyio.fail_after(20):
        step = await service.submit_code(session.id, FOREVER, step_id=id)
        again = await service.submit_code(session.id, FOREVER, step_id=id, wait=0.05)
        waited = await service.wait_run_step(id, timeout=0.05)
        async with service.watch_run_step(id) as events:
            cancelled = await service.cancel_run_step(id)
            seen = [event async for event in events]
        quick = await service.submit_code(session.id, "1", wait=None)

    assert step.id == again.id == waited.id == id
    assert not waited.status.is_final
    assert cancelled.status is StepStatus.CANCELLED
    assert isinstance(seen[-1], StepFinished) and seen[-1].step == cancelled
    assert await service.wait_run_step(id) == cancelled
    assert quick.status is StepStatus.COMPLETED
    assert len(await service.list_run_steps(session.id)) == 2


async def test_a_session_is_interrupted_restarted_and_replayed(service: Either) -> None:
    session = await service.create_session()
    assert await service.interrupt_session(session.id) is None
    await service.run_code(session.id, "x = 41")

    with anyio.fail_after(30):
        running = await service.submit_code(session.id, FOREVER)
        # What it has printed before somebody watches is in the step, and no event.
        while not (await service.get_run_step(running.id)).outputs:
            await anyio.sleep(0.02)
        interrupted = await service.interrupt_session(session.id)
        restarted = await service.restart_session(session.id, replay=True)
        step = await service.run_code(session.id, "x + 1")

    assert interrupted is not None and interrupted.id == running.id
    assert interrupted.status is StepStatus.CANCELLED
    assert [replayed.code for replayed in restarted.replayed] == ["x = 41"]
    assert restarted.session.epoch == 2
    assert [getattr(output, "data", None) for output in step.outputs] == [{"text/plain": "42"}]


async def test_a_session_is_looked_at(service: Either) -> None:
    session = await service.create_session()
    assert await service.list_variables(session.id) == []
    await service.run_code(session.id, "number = 7")
    await service.warm_session(session.id)

    [variable] = await service.list_variables(session.id)
    notebook = await service.export_notebook(session.id)
    [spec] = await service.list_kernelspecs()

    assert (variable.name, variable.type) == ("number", "int")
    assert isinstance(notebook["cells"], list) and len(notebook["cells"]) == 1
    assert spec.language == "python"
    assert spec in await service.list_kernelspecs("embedded")
    servers = service.list_servers()
    assert (servers if isinstance(servers, list) else await servers) == ["embedded"]


async def test_commands_run_beside_the_kernel(service: Either) -> None:
    session = await service.create_session()

    with anyio.fail_after(30):
        result = await service.run_command(session.id, "echo out; echo err >&2; exit 3")
        cut = await service.run_command(session.id, "yes | head -c 9000", output_limit=100)
        slow = await service.run_command(session.id, "sleep 30", timeout=0.2)
        async with service.stream_command(session.id, "echo one; echo two") as events:
            seen = [event async for event in events]

    assert (result.stdout, result.stderr, result.exit_status) == ("out\n", "err\n", 3)
    assert cut.truncated and slow.timed_out
    texts = [event.text for event in seen if isinstance(event, CommandOutput)]
    assert "".join(texts) == "one\ntwo\n"
    assert isinstance(seen[-1], CommandDone) and seen[-1].exit_status == 0


async def test_leaving_a_command_ends_it(service: Either) -> None:
    session = await service.create_session()
    beat = "while true; do echo >> beat; echo tick; sleep 0.05; done"

    async def beats() -> int:
        return (await service.stat_file(session.id, "beat", digest=False)).size

    async def wait_for_silence() -> None:
        while True:
            before = await beats()
            await anyio.sleep(0.3)
            if await beats() == before:
                return

    with anyio.fail_after(30):
        async with service.stream_command(session.id, beat) as events:
            assert isinstance(await anext(aiter(events)), CommandOutput)
        await wait_for_silence()
        with anyio.move_on_after(1):
            await service.run_command(session.id, beat)
        await wait_for_silence()


async def test_files_are_moved_described_and_deleted(service: Either) -> None:
    session = await service.create_session()

    async def chunks() -> AsyncIterator[bytes]:
        yield b"one "
        yield b"two"

    names = ["data/a b.csv", "ü/100% #1?.txt", "plain"]
    files = [await service.upload_file(session.id, name, chunks()) for name in names]
    empty = await service.upload_file(session.id, "empty", b"")
    await service.run_code(session.id, "open('made.txt', 'w').write('by code')")

    listed = await service.list_files(session.id)
    assert [file.path for file in listed] == [
        "data/a b.csv",
        "empty",
        "made.txt",
        "plain",
        names[1],
    ]
    assert [file.id for file in listed] == [files[0].id, empty.id, None, files[2].id, files[1].id]
    assert [file.path for file in await service.list_files(session.id, limit=2)] == [
        "data/a b.csv",
        "empty",
    ]
    assert await service.list_files(session.id, limit=0) == []
    described = await service.stat_file(session.id, f"/mnt/data/{names[1]}")
    assert (described.id, described.sha256) == (files[1].id, files[1].sha256)
    assert (await service.stat_file(session.id, "made.txt", digest=False)).sha256 is None
    assert await _read(service, session.id, f"sandbox:/mnt/data/{names[1]}") == b"one two"
    assert await _read(service, session.id, "plain", offset=2, length=3) == b"e t"
    assert await _read(service, session.id, "plain", offset=4) == b"two"
    assert await _read(service, session.id, "plain", offset=2, length=0) == b""
    assert await _read(service, session.id, "plain", offset=99) == b""
    assert await _read(service, session.id, "empty") == b""

    await service.delete_file(session.id, names[1])

    with pytest.raises(NotFoundError):
        await service.stat_file(session.id, names[1])
    with pytest.raises(NotFoundError):
        await service.delete_file(session.id, names[1])
    with pytest.raises(NotFoundError):
        await _read(service, session.id, names[1])


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "", "a\x00b", "a\\..\\b"])
async def test_bad_names_are_refused(service: Either, path: str) -> None:
    session = await service.create_session()

    for call in (
        service.upload_file(session.id, path, b"x"),
        service.stat_file(session.id, path),
        service.delete_file(session.id, path),
        service.uploads.add(path, b"x"),
        service.uploads.keep(session.id, path),
    ):
        with pytest.raises(InvalidPathError):
            await call
    with pytest.raises(InvalidPathError):
        await _read(service, session.id, path)


async def test_a_file_over_the_limit_is_refused_with_the_reason(service: Either) -> None:
    session = await service.create_session()

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b"x" * 100_000

    for content in (b"x" * 1_000_001, b"x" * 4_000_000, chunks()):
        with pytest.raises(FileTooLargeError) as caught:
            await service.upload_file(session.id, "big", content)
        assert caught.value.limit == 1_000_000
    with pytest.raises(FileTooLargeError):
        await service.uploads.add("big", chunks())

    assert await service.list_files(session.id) == []


async def test_an_upload_whose_source_fails_leaves_nothing(service: Either) -> None:
    session = await service.create_session()

    async def chunks() -> AsyncIterator[bytes]:
        yield b"half"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await service.upload_file(session.id, "half", chunks())

    assert await service.list_files(session.id) == []


async def test_uploads_have_ids_on_every_face(service: Either, local: SessionService) -> None:
    session = await service.create_session()
    uploads = service.uploads

    added = await uploads.add("a/b.csv", b"1,2")
    staged = await uploads.stage(session.id, added.id or "")
    renamed = await uploads.stage(session.id, added.id or "", "c.csv")
    await service.run_code(session.id, "open('made.txt', 'w').write('by code')")
    handle = await uploads.identify(session.id, "made.txt")
    kept = await uploads.keep(session.id, "made.txt")

    assert (staged.id, staged.path, renamed.path) == (added.id, "a/b.csv", "c.csv")
    assert handle.id == kept.id and kept.session_id is None
    assert await uploads.get(added.id or "") == added == await local.uploads.get(added.id or "")
    assert (await uploads.find(session.id, kept.id or "")).path == "made.txt"
    async with uploads.open(kept.id or "", offset=3) as chunks:
        assert await _joined(chunks) == b"code"

    await uploads.delete(added.id or "")

    for call in (uploads.get(added.id or ""), uploads.find(session.id, added.id or "")):
        with pytest.raises(NotFoundError):
            await call
    with pytest.raises(NotFoundError):
        await uploads.delete(added.id or "")


async def test_whole_texts_are_streamed(service: Either) -> None:
    session = await service.create_session()
    short = await service.run_code(session.id, "print('short')")
    step = await service.run_code(session.id, "print('0123456789' * 150_000)")

    async def read(step: RunStep, **part: int) -> bytes:
        async with service.open_full_text(step.id, **part) as chunks:
            return await _joined(chunks)

    assert step.truncated and step.full_text is not None
    assert await read(step) == b"0123456789" * 150_000 + b"\n"
    assert await read(step, offset=1_499_998) == b"89\n"
    assert await read(step, offset=12, length=3) == b"234"
    with pytest.raises(NotFoundError):
        await read(short)


async def test_a_ticket_is_made_for_one_file(service: Either, local: SessionService) -> None:
    session = await service.create_session()

    ticket, secret = await service.create_ticket(session.id, "a.csv", "upload")

    assert (ticket.path, ticket.session_id) == ("a.csv", session.id)
    assert await local.redeem_ticket(secret, "upload") == ticket


async def test_a_place_that_cannot_run_code_says_so(service: Either, backend: object) -> None:
    session = await service.create_session()
    vars(backend)["unavailable"] = True

    with pytest.raises(BackendError):
        await service.run_command(session.id, "true")
    step = await service.run_code(session.id, "1")

    assert step.error is not None and step.error.code == "start_failed"


async def test_many_callers_are_served_at_once(service: Either) -> None:
    sessions = [await service.create_session() for _ in range(8)]

    async def use(id: str) -> None:
        for number in range(3):
            step = await service.run_code(id, f"{number}")
            assert step.status is StepStatus.COMPLETED

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for session in sessions:
                tasks.start_soon(use, session.id)
