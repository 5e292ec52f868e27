"""Sessions as the guides of the hosted API define them: per thread and hour of activity."""

import json
from pathlib import Path

import pytest
from sqlalchemy import Connection

from ci_tools import Settings, open_service
from ci_tools.testing import FakeBackend
from ci_tools_assistants.runs.usage import (
    HOUR,
    CountedSession,
    count_activity,
    count_all,
    list_sessions,
    summarise,
)
from ci_tools_assistants.storage.records import Records
from tests.adapters.assistants.desk import open_desk
from tests.adapters.server.processes import run
from tests.adapters.server.test_app import open_app

START = 1_700_000_000


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def count(records: Records, thread: str, *moments: int, principal: str = "ada") -> list[bool]:
    def work(conn: Connection) -> list[bool]:
        return [
            count_activity(conn, principal=principal, thread_id=thread, moment=START + moment)
            for moment in moments
        ]

    return await records.write(work)


async def test_an_hour_of_a_thread_is_one_session(records: Records) -> None:
    assert await count(records, "thread_a", 0, 1, 1800, HOUR - 1) == [True, False, False, False]


async def test_code_after_the_hour_begins_another(records: Records) -> None:
    # The hour counts from its begin and not from the last code in it.
    assert await count(records, "thread_a", 0, 3000, HOUR, HOUR + 3000, 3 * HOUR) == [
        True,
        False,
        True,
        False,
        True,
    ]


async def test_two_threads_at_once_are_two(records: Records) -> None:
    assert await count(records, "thread_a", 0) == [True]
    assert await count(records, "thread_b", 0) == [True]

    found = await records.read(lambda conn: list_sessions(conn, principal="ada"))

    assert [session.thread_id for session in found] == ["thread_a", "thread_b"]


async def test_principals_and_times_are_kept_apart(records: Records) -> None:
    await count(records, "thread_a", 0, HOUR, 2 * HOUR)
    await count(records, "thread_c", 0, principal="eve")

    middle = await records.read(
        lambda conn: list_sessions(
            conn, principal="ada", since=START + HOUR, until=START + 2 * HOUR
        )
    )

    assert middle == [CountedSession(thread_id="thread_a", started_at=START + HOUR)]
    assert await records.read(count_all) == 4


def test_the_report_counts_by_thread_and_by_day() -> None:
    sessions = [
        CountedSession(thread_id="thread_a", started_at=START),
        CountedSession(thread_id="thread_a", started_at=START + 24 * HOUR),
        CountedSession(thread_id="thread_b", started_at=START),
    ]

    assert summarise("ada", sessions) == {
        "principal": "ada",
        "code_interpreter_sessions": 3,
        "threads": {"thread_a": 2, "thread_b": 1},
        "days": {"2023-11-14": 2, "2023-11-15": 1},
    }


async def test_the_metric_counts_for_all_principals(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path / "state", auth="none")
    async with open_app(settings, tmp_path / "folders") as client:
        before = (await client.get("/metrics")).text
        for principal in ("ada", "eve"):
            async with open_desk(client.service, principal) as desk:
                await desk.run("1", await desk.add_thread())
        after = (await client.get("/metrics")).text

    assert "ci_tools_interpreter_sessions 0.0" in before
    assert "ci_tools_interpreter_sessions 2.0" in after


async def test_the_command_shows_what_code_used(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path / "state")
    backend = FakeBackend(tmp_path / "folders")
    async with open_service(settings, backend=backend) as service, open_desk(service) as desk:
        first, second = await desk.add_thread(), await desk.add_thread()
        for thread in (first, first, second):
            await desk.run("1", thread)
        assert await desk.interpreter.count_sessions() == 2

    code, out, errors = await run(tmp_path, "usage", "--principal", "ada", "--json")
    _, text, _ = await run(tmp_path, "usage", "--principal", "ada", "--since", "2099-01-01")

    assert (code, errors) == (0, "")
    assert json.loads(out)["threads"] == {first["id"]: 1, second["id"]: 1}
    assert json.loads(out)["code_interpreter_sessions"] == 2
    assert text == "ada: 0 code interpreter sessions in 0 threads\n"
