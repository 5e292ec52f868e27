"""Runs whose records are in PostgreSQL, where two processes really write side by side."""

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import anyio
import asyncpg  # type: ignore[import-untyped]
import pytest

from ci_tools_assistants.runs import upkeep as run_upkeep
from tests.adapters.assistants.contract import streams
from tests.adapters.assistants.puppet import (
    CODE,
    WEATHER,
    Ask,
    Gate,
    open_stage,
    outputs_of,
    path_of,
    run_code,
)


@pytest.fixture
async def url(postgresql: str) -> AsyncIterator[str]:
    name = f"runs_{uuid4().hex}"
    connection = await asyncpg.connect(postgresql)
    await connection.execute(f"CREATE DATABASE {name}")
    yield postgresql.replace("/postgres?", f"/{name}?")
    await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await connection.close()


async def test_two_processes_share_the_runs_of_a_thread(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_upkeep, "TICK", 0.05)
    async with (
        open_stage(tmp_path, database_url=url) as here,
        open_stage(tmp_path, database_url=url) as there,
    ):
        here.model.plays([run_code("print(6 * 7)"), Ask("weather", {})], ["Half", Gate()])
        there.model.plays(["Sunny."])
        assistant, thread = await here.new_assistant(CODE, WEATHER), await here.new_thread()
        path = f"/threads/{thread['id']}/runs"
        body = {"assistant_id": assistant["id"]}

        response = await here.http.post(path, json={**body, "stream": True})
        [run] = (await there.get(path))["data"]
        await there.post(path_of(run) + "/submit_tool_outputs", {"tool_outputs": outputs_of(run)})
        run = await there.ends(run)
        second = await here.post(path, body)
        refusal = await there.refuse(path, body)
        with anyio.fail_after(60):
            while len(await here.steps(second)) == 0:
                await anyio.sleep(0.02)
        await there.post(path_of(second) + "/cancel")
        second = await here.ends(second)

    assert streams.check_order(streams.parse(response.text)) == []
    assert run["status"] == "completed"
    assert refusal == f"Thread {thread['id']} already has an active run {second['id']}."
    assert second["status"] == "cancelled"


async def test_of_runs_that_are_started_at_once_one_wins(url: str, tmp_path: Path) -> None:
    async with (
        open_stage(tmp_path, database_url=url) as here,
        open_stage(tmp_path, database_url=url) as there,
    ):
        assistant, thread = await here.new_assistant(), await here.new_thread()
        gate = Gate()
        here.model.plays(*[[gate]] * 5)
        there.model.plays(*[[gate]] * 5)
        answers: list[int] = []

        async def start(stage: object) -> None:
            response = await stage.http.post(  # type: ignore[attr-defined]
                f"/threads/{thread['id']}/runs", json={"assistant_id": assistant["id"]}
            )
            answers.append(response.status_code)

        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                for _ in range(5):
                    tasks.start_soon(start, here)
                    tasks.start_soon(start, there)
        gate.opened.set()

        assert sorted(answers) == [200] + [400] * 9
