"""Lost connections, absent services and wrong addresses."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc
import pytest
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import Receive, Scope, Send

from ci_tools import (
    BackendError,
    ConfigurationError,
    InvalidArgumentError,
    LimitError,
    RunStep,
    ServerDeniedError,
    ServerUnavailableError,
    SessionService,
    Settings,
    StepFinished,
    StepOutput,
    StepStatus,
    open_service,
)
from ci_tools.testing import FakeBackend
from ci_tools_client import ConnectionLostError, RemoteService, open_client
from ci_tools_client import service as client_service
from tests.adapters.client.conftest import serve, serve_api

UNTIL_GO = (
    "import os, time\nprint('started', flush=True)\n"
    "while not os.path.exists('go'): time.sleep(0.01)\nruns = globals().get('runs', 0) + 1\nruns"
)


class Line:
    """A line between client and service that can be cut."""

    def __init__(self) -> None:
        self._port = 0
        self._tasks: list[anyio.CancelScope] = []
        self.broken = False
        self.requests = 0

    def lead_to(self, url: str) -> None:
        self._port = int(url.rsplit(":", 1)[1])

    def cut(self) -> None:
        """Close every connection; new ones too while `broken`."""
        for scope in self._tasks:
            scope.cancel()
        self._tasks.clear()

    async def handle(self, stream: anyio.abc.SocketStream) -> None:
        async with stream:
            if self.broken:
                return
            async with await anyio.connect_tcp("127.0.0.1", self._port) as server:
                try:
                    async with anyio.create_task_group() as tasks:
                        self._tasks.append(tasks.cancel_scope)
                        tasks.start_soon(self._copy, stream, server, tasks.cancel_scope)
                        tasks.start_soon(self._copy, server, stream, tasks.cancel_scope)
                except* (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    pass

    async def _copy(
        self,
        source: anyio.abc.SocketStream,
        target: anyio.abc.SocketStream,
        scope: anyio.CancelScope,
    ) -> None:
        async for chunk in source:
            self.requests += chunk.startswith((b"GET ", b"POST "))
            await target.send(chunk)
        scope.cancel()


@asynccontextmanager
async def lay_line() -> AsyncIterator[tuple[Line, str]]:
    line = Line()
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, line.handle)
        yield line, f"http://127.0.0.1:{port}"
        tasks.cancel_scope.cancel()


@pytest.fixture
async def cuttable(
    local: SessionService, url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Line, RemoteService]]:
    monkeypatch.setattr(client_service, "_ATTEMPTS_APART", 0.01)
    _, token = await local.create_token()
    async with lay_line() as (line, address), open_client(address, token) as client:
        line.lead_to(url)
        yield line, client


async def _wait_for_output(local: SessionService, session_id: str) -> str:
    """Wait until the session's step has printed; return its id."""
    while True:
        for step in await local.list_run_steps(session_id):
            if (await local.get_run_step(step.id)).outputs:
                return step.id
        await anyio.sleep(0.01)


async def test_code_runs_once_however_often_the_connection_is_lost(
    local: SessionService, cuttable: tuple[Line, RemoteService]
) -> None:
    line, client = cuttable
    session = await client.create_session()
    steps: list[RunStep] = []

    async def run() -> None:
        steps.append(await client.run_code(session.id, UNTIL_GO))

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            id = await _wait_for_output(local, session.id)
            for _ in range(3):
                before = line.requests
                line.cut()
                while line.requests == before:
                    await anyio.sleep(0.01)
            line.broken = True
            line.cut()
            await local.upload_file(session.id, "go", b"")
            await local.wait_run_step(id)
            line.broken = False

    [step] = steps
    assert step.id == id
    assert [getattr(output, "data", None) for output in step.outputs[1:]] == [{"text/plain": "1"}]
    assert await local.list_run_steps(session.id) == [step]


async def test_a_broken_stream_goes_on_to_the_end_of_its_step(
    local: SessionService, cuttable: tuple[Line, RemoteService]
) -> None:
    line, client = cuttable
    session = await client.create_session()
    seen: list[object] = []

    with anyio.fail_after(30):
        async with client.stream_code(session.id, UNTIL_GO) as events:
            async for event in events:
                seen.append(event)
                if isinstance(event, StepOutput) and len(seen) < 4:
                    line.cut()
                    await local.upload_file(session.id, "go", b"")

    last = seen[-1]
    assert isinstance(last, StepFinished)
    assert last.step.status is StepStatus.COMPLETED
    assert await local.list_run_steps(session.id) == [last.step]


async def test_a_lost_command_is_an_error_and_not_run_again(
    local: SessionService, cuttable: tuple[Line, RemoteService]
) -> None:
    line, client = cuttable
    session = await client.create_session()

    async def cut_soon() -> None:
        # The shell makes the file first, and writes a moment later.
        while not any(file.size for file in await local.list_files(session.id)):
            await anyio.sleep(0.01)
        line.cut()

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cut_soon)
            with pytest.raises(ConnectionLostError):
                await client.run_command(session.id, "echo >> ran; sleep 20")

    async with local.open_file(session.id, "ran") as chunks:
        assert b"".join([chunk async for chunk in chunks]) == b"\n"


async def test_what_changes_nothing_is_asked_for_again(
    cuttable: tuple[Line, RemoteService],
) -> None:
    line, client = cuttable
    session = await client.create_session()

    line.cut()

    assert await client.get_session(session.id) == session
    line.broken = True
    line.cut()
    with pytest.raises(ServerUnavailableError):
        await client.get_session(session.id)


async def test_long_steps_are_asked_for_piece_by_piece(
    remote: RemoteService, local: SessionService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_service, "WAIT", 0.05)
    session = await remote.create_session()

    with anyio.fail_after(30):
        slow = "import time; time.sleep(0.3); 1"
        steps = [
            await remote.run_code(session.id, slow),
            await remote.submit_code(session.id, slow, wait=None),
            await remote.submit_code(session.id, slow, wait=20),
        ]
        unfinished = await remote.submit_code(session.id, slow, wait=0.1)

    assert {step.status for step in steps} == {StepStatus.COMPLETED}
    assert not unfinished.status.is_final


async def test_a_step_of_a_service_that_ended_is_told_as_it_was_stored(
    settings: Settings, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_service, "_ATTEMPTS_APART", 0.01)
    async with open_service(settings, backend=backend) as service:
        session = await service.create_session()
        _, token = await service.create_token()
    steps: list[RunStep] = []

    with anyio.fail_after(60):
        async with (
            lay_line() as (line, address),
            open_client(address, token) as client,
            anyio.create_task_group() as tasks,
        ):

            async def run() -> None:
                steps.append(await client.run_code(session.id, UNTIL_GO))

            async with (
                open_service(settings, backend=backend) as first,
                serve_api(first, settings) as url,
            ):
                line.lead_to(url)
                tasks.start_soon(run)
                await _wait_for_output(first, session.id)
                line.broken = True
                line.cut()
            async with (
                open_service(settings, backend=backend) as second,
                serve_api(second, settings) as url,
            ):
                line.lead_to(url)
                line.broken = False
                while not steps:
                    await anyio.sleep(0.01)

    assert steps[0].status in (StepStatus.CANCELLED, StepStatus.FAILED)


async def test_wrong_addresses_and_tokens_are_told_apart(url: str, tmp_path: Path) -> None:
    async with open_client(url, "cit_wrong") as client:
        with pytest.raises(ServerDeniedError):
            await client.list_sessions()
        with pytest.raises(ServerDeniedError):
            async with client.stream_code("sess_x", "1") as events:
                await anext(events)
    async with open_client(url) as client:
        with pytest.raises(ServerDeniedError):
            await client.run_code("sess_x", "1")
    async with open_client("http://127.0.0.1:9/") as client:
        with pytest.raises(ServerUnavailableError):
            await client.run_code("sess_x", "1")
        with pytest.raises(ServerUnavailableError):
            async with client.open_file("sess_x", "a") as chunks:
                await anext(chunks)
    for text, status in (("hello", 200), ("hello", 404), ('{"error": "no"}', 500)):
        async with serve(PlainTextResponse(text, status)) as other, open_client(other) as client:
            with pytest.raises(BackendError):
                await client.list_sessions()


@pytest.mark.parametrize(
    "url",
    [
        *("localhost:8765", "127.0.0.1:8765", "http//x", "", "ftp://x", "http://", "http://a b"),
        *("http://[::1", "http://127.0.0.1:99999", "http://x:y", "http://x\n"),
    ],
)
async def test_what_is_no_address_is_refused_before_anything_is_sent(url: str) -> None:
    with pytest.raises(ConfigurationError):
        async with open_client(url, "cit_x"):
            raise AssertionError


@pytest.mark.parametrize("token", ["a b", "cit_ü", "cit_x\n", "\ud83d"])
async def test_what_is_no_token_is_refused_before_anything_is_sent(token: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        async with open_client("http://127.0.0.1:9", token):
            raise AssertionError

    assert token not in str(caught.value)


async def test_a_caller_that_leaves_before_its_code_was_sent_does_not_wait_long(
    remote: RemoteService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_service, "_ATTEMPTS_APART", 0.01)
    session = await remote.create_session()

    with anyio.fail_after(10):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await remote.run_code(session.id, UNTIL_GO)

    assert await remote.list_run_steps(session.id) == []


async def test_a_caller_that_leaves_a_service_which_does_not_answer_is_held_only_so_long(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(client_service, "CANCEL_TIME", 0.1)
    asked: list[str] = []

    async def hang(scope: Scope, receive: Receive, send: Send) -> None:
        asked.append(scope["path"].rpartition("/")[2])
        while (await receive())["type"] != "http.disconnect":
            pass

    with anyio.fail_after(10):
        async with serve(hang) as url, open_client(url) as client:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(client.run_code, "sess_x", "1")
                    while not asked:
                        await anyio.sleep(0.01)
                    scope.cancel()

    assert asked == ["run_steps", "cancel"]
    assert "was not told" in caplog.text


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidArgumentError),
        (403, ServerDeniedError),
        (418, BackendError),
        (429, LimitError),
        (502, ServerUnavailableError),
        # A redirection, such as to https, which no token is to follow.
        (308, BackendError),
    ],
)
async def test_errors_of_others_on_the_way_have_fitting_classes(
    status: int, kind: type[Exception]
) -> None:
    app = JSONResponse({"error": {"message": "no", "code": None}}, status)

    async with serve(app) as url, open_client(url) as client:
        with pytest.raises(kind) as caught:
            await client.list_sessions()

    assert type(caught.value) is kind


async def test_an_address_may_end_with_the_version(url: str, local: SessionService) -> None:
    _, token = await local.create_token()
    for address in (url, url + "/", url + "/v1", url + "/v1/"):
        async with open_client(address, token) as client:
            assert await client.list_servers() == ["embedded"]
