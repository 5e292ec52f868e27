"""What happens to runs when something of the outside world goes away."""

import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import psutil
import pytest

from tests.adapters.assistants.clients.printed import CODE_TOOL
from tests.adapters.assistants.clients.serving import KEY, Served, model_settings, served_api
from tests.adapters.assistants.contract.world import World
from tests.adapters.assistants.scripted.script import (
    NO_QUOTA,
    OVERFLOW,
    RATE_LIMIT,
    SERVER_ERROR,
    Break,
    CallTool,
    Cut,
    Fail,
    Gate,
    Request,
    Turn,
    Wait,
    turn,
    words,
)
from tests.adapters.assistants.scripted.server import ScriptedServer, scripted_server
from tests.adapters.server.processes import FAKE, Serving, serving

MANY = 200
"""Threads with runs at the same time."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served_api(tmp_path_factory.mktemp("faults")) as served:
        yield served


@pytest.fixture
def world(served: Served) -> Iterator[World]:
    served.watch.problems.clear()
    world = World(served, "v2")
    yield world
    world.close()
    served.model.follow(served.script)
    assert "\n".join(served.watch.problems) == ""


def test_a_run_goes_on_when_its_client_leaves_the_stream(served: Served, world: World) -> None:
    gate = Gate()
    served.model.follow([turn("Hello ", Wait(gate), "again")])
    thread = world.new_thread()
    body = {"assistant_id": world.assistant["id"], "stream": True}

    with world.http.stream("POST", f"/threads/{thread['id']}/runs", json=body) as response:
        for line in response.iter_lines():
            if line == "event: thread.message.delta":
                break
    gate.open()
    [run] = world.get(f"/threads/{thread['id']}/runs")["data"]
    run = world.wait(run)

    assert run["status"] == "completed"
    newest = world.get(f"/threads/{thread['id']}/messages")["data"][0]
    assert newest["content"][0]["text"]["value"] == "Hello again"


def test_a_kernel_that_dies_in_a_run_does_not_end_it(served: Served, world: World) -> None:
    code = "import os, signal\nprint('going', flush=True)\nos.kill(os.getpid(), signal.SIGKILL)"

    def script(request: Request) -> Turn:
        answers = len([one for one in request.messages if one.get("role") == "tool"])
        if answers == 0:
            return turn(CallTool(CODE_TOOL, {"code": code}))
        if answers == 1:
            return turn(CallTool(CODE_TOOL, {"code": "6 * 7"}))
        return turn(*words(request.tool_results[-1]))

    served.model.follow(script)
    run = world.wait(world.new_run("Die"))

    assert run["status"] == "completed", run
    steps = world.get(f"/threads/{run['thread_id']}/runs/{run['id']}/steps", order="asc")["data"]
    first, second = (step["step_details"]["tool_calls"][0] for step in steps[:2])
    assert "going" in first["code_interpreter"]["outputs"][0]["logs"]
    assert "42" in second["code_interpreter"]["outputs"][0]["logs"]
    assert [step["status"] for step in steps] == ["completed"] * 3


FAILURES: dict[str, tuple[list[Turn | Fail], str]] = {
    "rate limit": ([RATE_LIMIT] * 5, "rate_limit_exceeded"),
    "no quota": ([NO_QUOTA] * 5, "rate_limit_exceeded"),
    "server error": ([SERVER_ERROR] * 5, "server_error"),
    "cut connection": ([turn("Half a sen", Cut())] * 5, "server_error"),
    "error in the stream": ([turn("Half a sen", Break())] * 5, "server_error"),
    "context overflow": ([OVERFLOW] * 5, "invalid_prompt"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_model_that_fails_makes_a_failed_run_and_a_free_thread(
    served: Served, world: World, name: str
) -> None:
    script, code = FAILURES[name]
    served.model.follow(script)

    run = world.wait(world.new_run("Hello"))
    served.model.follow(served.script)
    body = {"assistant_id": world.assistant["id"]}
    again = world.wait(world.post(f"/threads/{run['thread_id']}/runs", body))

    assert run["status"] == "failed"
    assert run["last_error"]["code"] == code
    assert run["failed_at"] is not None
    assert again["status"] == "completed"
    for message in world.get(f"/threads/{run['thread_id']}/messages", run_id=run["id"])["data"]:
        assert (message["status"], message["incomplete_details"]) == (
            "incomplete",
            {"reason": "run_failed"},
        )


@pytest.mark.parametrize("name", ["rate limit", "cut connection", "context overflow"])
def test_a_stream_ends_in_order_when_the_model_fails(
    served: Served, world: World, name: str
) -> None:
    served.model.follow(FAILURES[name][0])
    thread = world.new_thread()
    body = {"assistant_id": world.assistant["id"]}

    events = world.stream(f"/threads/{thread['id']}/runs", body)

    names = [event for event, _ in events]
    assert "thread.run.failed" in names
    assert names[-1] == "done"


def test_a_model_that_stalls_fails_the_run_in_time(tmp_path: Path) -> None:
    gate = Gate()
    with scripted_server([turn("One ", Wait(gate))]) as model:
        settings = model_settings(model)
        for entry in settings["models"].values():
            entry["timeout"] = 0.5
        with served_api(tmp_path, **settings) as served:
            world = World(served, "v2")
            run = world.wait(world.new_run("Hello"))
            world.close()
        gate.open()

    assert run["status"] == "failed"
    assert run["last_error"]["code"] == "server_error"


@asynccontextmanager
async def real_process(folder: Path, model: ScriptedServer) -> AsyncIterator[Serving]:
    """Run `ci-tools serve` as a child, with the fake backend and a short lease."""
    models = json.dumps(model_settings(model)["models"])
    variables = {"CI_TOOLS_MODELS": models, "CI_TOOLS_LEASE_TIME": "1", "CI_TOOLS_AUTH": "none"}
    async with serving(folder, command=FAKE, **variables) as served:
        yield served


def connect(served: Serving) -> httpx2.AsyncClient:
    headers = {"Authorization": f"Bearer {KEY}", "OpenAI-Beta": "assistants=v2"}
    return httpx2.AsyncClient(base_url=f"{served.url}/v1", headers=headers, timeout=30)


async def post(http: httpx2.AsyncClient, path: str, body: dict[str, Any]) -> Any:
    response = await http.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def kill_tree(pid: int) -> None:
    """Kill a process and all that it has started, as a machine that goes down does."""
    process = psutil.Process(pid)
    for one in [process, *process.children(recursive=True)]:
        os.kill(one.pid, signal.SIGKILL)


@pytest.mark.parametrize("moment", ["while the model speaks", "while code runs"])
async def test_a_run_of_a_killed_service_is_settled_by_the_next(
    tmp_path: Path, moment: str
) -> None:
    gate = Gate()
    held: Turn = turn("Hello ", Wait(gate), "again")
    if moment == "while code runs":
        held = turn(CallTool(CODE_TOOL, {"code": "import time\nprint('on')\ntime.sleep(100)"}))
    with scripted_server([held, *[turn("At last")] * 5]) as model, anyio.fail_after(90):
        async with real_process(tmp_path, model) as served, connect(served) as http:
            tools = [{"type": "code_interpreter"}]
            assistant = await post(http, "/assistants", {"model": "gpt-4o", "tools": tools})
            thread = await post(http, "/threads", {"messages": [{"role": "user", "content": "A"}]})
            path = f"/threads/{thread['id']}/runs"
            run = await post(http, path, {"assistant_id": assistant["id"]})
            await wait_until_held(http, f"{path}/{run['id']}/steps", gate, moment)
            kill_tree(served.process.pid)
            await served.process.wait()
        gate.open()
        async with real_process(tmp_path, model) as served, connect(served) as http:
            while run["status"] in ("queued", "in_progress"):
                await anyio.sleep(0.1)
                run = (await http.get(f"{path}/{run['id']}")).json()
            steps = (await http.get(f"{path}/{run['id']}/steps")).json()["data"]
            answers = (await http.get(f"/threads/{thread['id']}/messages")).json()["data"]
            again = await post(http, path, {"assistant_id": assistant["id"]})
            while again["status"] in ("queued", "in_progress"):
                await anyio.sleep(0.05)
                again = (await http.get(f"{path}/{again['id']}")).json()

    assert run["status"] in ("completed", "failed")
    assert run["status"] == "completed" or run["last_error"]["message"]
    assert all(step["status"] != "in_progress" for step in steps)
    assert all(message["status"] != "in_progress" for message in answers)
    assert again["status"] == "completed", again


@pytest.mark.parametrize("moment", ["while the model speaks", "while code runs"])
async def test_streams_are_ended_in_order_when_the_service_is_stopped(
    tmp_path: Path, moment: str
) -> None:
    held: Turn = turn("Hello from here", Wait(Gate()), "again")
    if moment == "while code runs":
        code = "import time\nprint('Hello', 'from there', flush=True)\ntime.sleep(100)"
        held = turn(CallTool(CODE_TOOL, {"code": code}))
    text = ""
    with scripted_server([held, *[turn("At last")] * 5]) as model, anyio.fail_after(90):
        async with real_process(tmp_path, model) as served, connect(served) as http:
            tools = [{"type": "code_interpreter"}]
            assistant = await post(http, "/assistants", {"model": "gpt-4o", "tools": tools})
            body = {"assistant_id": assistant["id"], "stream": True}
            async with http.stream("POST", "/threads/runs", json=body) as response:
                async for piece in response.aiter_text():
                    if "Hello from" in piece:
                        served.process.send_signal(signal.SIGTERM)
                    text += piece
            await served.process.wait()

    *_, error, done, nothing = text.split("\n\n")
    assert error.startswith('event: error\ndata: {"error":{"message":"The service is closing.')
    assert (done, nothing) == ("event: done\ndata: [DONE]", "")


async def wait_until_held(http: httpx2.AsyncClient, path: str, gate: Gate, moment: str) -> None:
    if moment == "while the model speaks":
        await gate.reached()
        return
    while not (await http.get(path)).json()["data"]:
        await anyio.sleep(0.02)
    await anyio.sleep(0.2)  # the code has been sent to the kernel


async def test_many_threads_have_runs_at_once(served: Served) -> None:
    served.watch.problems.clear()
    headers = {"Authorization": f"Bearer {KEY}", "OpenAI-Beta": "assistants=v2"}
    # The server closes connections that are quiet for 5 s; none may be used as that happens.
    limits = httpx2.Limits(max_connections=MANY, keepalive_expiry=2)
    results: list[str] = []
    async with httpx2.AsyncClient(
        base_url=served.url, headers=headers, timeout=60, limits=limits
    ) as http:
        assistant = await post(http, "/assistants", {"model": "gpt-4o"})

        async def run_one(number: int) -> None:
            message = {"role": "user", "content": f"Hello, I am {number}"}
            body = {"assistant_id": assistant["id"], "thread": {"messages": [message]}}
            run = await post(http, "/threads/runs", body)
            while run["status"] in ("queued", "in_progress"):
                await anyio.sleep(0.5)
                path = f"/threads/{run['thread_id']}/runs/{run['id']}"
                run = (await http.get(path)).json()
            found = (await http.get(f"/threads/{run['thread_id']}/messages")).json()["data"]
            texts = [one["content"][0]["text"]["value"] for one in found]
            assert texts == ["Hello! How can I help you today?", message["content"]]
            results.append(run["status"])

        with anyio.fail_after(90):
            async with anyio.create_task_group() as tasks:
                for number in range(MANY):
                    tasks.start_soon(run_one, number)

    assert results == ["completed"] * MANY
    assert "\n".join(served.watch.problems) == ""
