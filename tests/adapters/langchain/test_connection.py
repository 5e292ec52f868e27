import multiprocessing
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from ci_tools import ConfigurationError, ServiceClosedError, Settings
from ci_tools.testing import FakeBackend
from langchain_ci_tools import CodeInterpreterToolkit
from langchain_ci_tools.connection import Connection


class Opened:
    """A service that is only opened and closed."""

    def __init__(self) -> None:
        self.open = 0
        self.failures: list[Exception] = []

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[Any]:
        if self.failures:
            raise self.failures.pop()
        self.open += 1
        try:
            yield self
        finally:
            self.open -= 1


def ours() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "ci-tools"]


async def give(service: Any, put: Any) -> int:
    if put is not None:
        put("on the way")
    return int(service.open)


def test_nothing_starts_before_the_first_call_and_all_ends_at_close() -> None:
    opened = Opened()
    connection = Connection(opened)
    before = (opened.open, ours())

    result = connection.call(give)
    during = ours()
    connection.close()

    assert (before, result, during) == ((0, []), 1, ["ci-tools"])
    assert (opened.open, ours()) == (0, [])


def test_what_comes_on_the_way_comes_in_the_callers_thread() -> None:
    seen: list[tuple[object, int]] = []
    connection = Connection(Opened())

    connection.call(give, put=lambda item: seen.append((item, threading.get_ident())))
    connection.close()

    assert seen == [("on the way", threading.get_ident())]


def test_closed_connection_takes_no_calls() -> None:
    connection = Connection(Opened())
    connection.close()
    connection.close()

    with pytest.raises(ServiceClosedError):
        connection.call(give)


def test_service_that_did_not_open_is_opened_again() -> None:
    opened = Opened()
    opened.failures.append(ConfigurationError("no"))
    connection = Connection(opened)

    with pytest.raises(ConfigurationError):
        connection.call(give)

    assert connection.call(give) == 1
    connection.close()


async def test_cancelled_call_is_waited_for_until_it_has_cleaned_up() -> None:
    connection = Connection(Opened())
    cleaned = threading.Event()

    async def work(service: Any, put: Any) -> None:
        put("started")
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.05)
            cleaned.set()

    with anyio.fail_after(5), anyio.CancelScope() as scope:

        async def stop(item: object) -> None:
            scope.cancel()

        await connection.acall(work, put=stop)

    assert scope.cancelled_caught
    assert cleaned.is_set()
    await connection.aclose()


def test_interrupted_call_is_waited_for_until_it_has_cleaned_up() -> None:
    connection = Connection(Opened())
    cleaned = threading.Event()

    async def work(service: Any, put: Any) -> None:
        put("started")
        try:
            await anyio.sleep_forever()
        finally:
            cleaned.set()

    def interrupt(item: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        connection.call(work, put=interrupt)

    assert cleaned.is_set()
    connection.close()


def test_closing_ends_what_is_still_running() -> None:
    connection = Connection(Opened())
    started = threading.Event()
    errors: list[Exception] = []

    async def work(service: Any, put: Any) -> None:
        assert put is None  # nobody listens
        started.set()
        await anyio.sleep_forever()

    def call() -> None:
        try:
            connection.call(work)
        except ServiceClosedError as error:
            errors.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    assert started.wait(5)
    connection.close()
    caller.join(5)

    assert len(errors) == 1


async def test_many_calls_at_once_open_one_service() -> None:
    opened = Opened()
    connection = Connection(opened)
    results: list[int] = []

    async def call() -> None:
        results.append(await connection.acall(give))

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(call)

    assert results == [1] * 20
    await connection.aclose()


def test_program_that_forgets_to_close_ends_and_its_kernels_with_it(tmp_path: Path) -> None:
    program = f"""
import os, sys
from pathlib import Path
from ci_tools import Settings
from ci_tools.testing import FakeBackend
from langchain_ci_tools import CodeInterpreterToolkit
toolkit = CodeInterpreterToolkit.local(
    Settings(state_dir=Path({str(tmp_path / "state")!r})),
    backend=FakeBackend(Path({str(tmp_path / "folders")!r})),
)
[run_code] = toolkit.get_tools("run_code")
print(run_code.invoke("import os; os.getpid()"))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True
    )

    assert not Path(f"/proc/{int(done.stdout)}").exists()


async def test_toolkit_closes_as_an_asynchronous_context_manager(tmp_path: Path) -> None:
    backend = FakeBackend(tmp_path / "folders")
    settings = Settings(state_dir=tmp_path / "state")

    async with CodeInterpreterToolkit.local(settings, backend=backend) as toolkit:
        [run_code] = toolkit.get_tools("run_code")
        await run_code.ainvoke("1")
        assert backend.alive == 1

    assert backend.alive == 0
    assert "closed" in await run_code.ainvoke("1")


def test_principals_share_a_connection_and_nothing_else(local: CodeInterpreterToolkit) -> None:
    config: Any = {"configurable": {"thread_id": "same"}}
    ada, bob = local.act_as("ada"), local.act_as("bob")
    ada.upload_file("a.txt", "secret", config)

    assert bob.list_files(config) == []
    assert ada.session(config).principal == "ada"
    assert ada.session(config).id != bob.session(config).id
    assert ada.connection is bob.connection


def test_shared_service_knows_the_principal_by_the_token() -> None:
    with (
        CodeInterpreterToolkit.connect("http://127.0.0.1:9", "cit_none") as toolkit,
        pytest.raises(TypeError, match="token"),
    ):
        toolkit.act_as("ada")


@pytest.mark.parametrize(
    ("url", "token"), [("localhost:8765", "cit_x"), ("http://localhost:8765", "cit_x\n")]
)
def test_address_and_token_are_checked_at_once(url: str, token: str) -> None:
    with pytest.raises(ConfigurationError):
        CodeInterpreterToolkit.connect(url, token)


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_forked_process_is_told_to_make_a_toolkit_of_its_own() -> None:
    """The thread that would answer is in the first process only."""
    connection = Connection(Opened())
    connection.call(give)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def ask() -> None:
        try:
            connection.call(give)
        except ConfigurationError as error:
            sender.send(str(error))

    child = context.Process(target=ask)
    child.start()

    assert receiver.poll(20)
    assert "in each process" in receiver.recv()
    child.join()
    assert connection.call(give) == 1
    connection.close()


def test_toolkit_made_without_a_word_is_a_local_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI_TOOLS_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(
        "ci_tools.runtime.load_backend", lambda settings: FakeBackend(tmp_path / "folders")
    )

    with CodeInterpreterToolkit() as toolkit:
        assert toolkit.get_tools("run_code")[0].invoke("1 + 1") == "2"
