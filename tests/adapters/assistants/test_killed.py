"""A real service process that is killed in the middle of runs, and the next one on its records."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2

from ci_tools_assistants.runs.recovery import CUT_OFF
from tests.adapters.assistants.puppet import outputs_of, path_of
from tests.adapters.assistants.scripted.script import CallTool, Gate, Request, Turn, Wait, turn
from tests.adapters.assistants.scripted.server import scripted_server

ROOT = Path(__file__).parents[3]

TOOLS: list[Any] = [
    {"type": "code_interpreter"},
    {"type": "function", "function": {"name": "weather", "parameters": {}}},
]

CODE = (
    "open('/mnt/data/ran', 'a').write('x')\nprint('begun', flush=True)\nimport time\ntime.sleep(99)"
)


class Model:
    """Says something different to each of the three threads, and the rest of it after the kill."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.was_killed = False
        self.told = ""

    def __call__(self, request: Request) -> Turn:
        match request.last_text:
            case "speak":
                return turn("Whole.") if self.was_killed else turn("Half", Wait(self.gate), ".")
            case "compute" if request.tool_results:
                self.told = request.tool_results[0]
                return turn("I know.")
            case "compute":
                return turn(CallTool("code_interpreter", {"code": CODE}))
            case "ask" if not request.tool_results:
                return turn(CallTool("weather", {}))
            case _:
                return turn("Fine.")


@contextmanager
def serving(folder: Path, port: int, model_url: str) -> Iterator[subprocess.Popen[bytes]]:
    path = os.pathsep.join(str(ROOT / name) for name in ("", "adapters", "kernels"))
    arguments = [str(folder), str(port), model_url]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.adapters.assistants.child", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def start(http: httpx2.AsyncClient, assistant: Any, text: str) -> Any:
    thread = {"messages": [{"role": "user", "content": text}]}
    body = {"assistant_id": assistant["id"], "thread": thread}
    return (await http.post("/threads/runs", json=body)).json()


async def until(http: httpx2.AsyncClient, run: Any, *statuses: str) -> Any:
    while run["status"] not in statuses:
        await anyio.sleep(0.02)
        run = (await http.get(path_of(run))).json()
    return run


async def until_ready(http: httpx2.AsyncClient) -> None:
    while True:
        try:
            await http.get("/models")
            return
        except httpx2.TransportError:
            await anyio.sleep(0.05)


async def test_runs_outlive_a_kill_or_end_honestly(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    model = Model()
    with scripted_server(model) as server, anyio.fail_after(120):
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}/v1") as http:
            with serving(tmp_path, port, server.url) as process:
                await until_ready(http)
                body = {"model": "gpt-4o", "tools": TOOLS}
                assistant = (await http.post("/assistants", json=body)).json()
                runs = [await start(http, assistant, text) for text in ("speak", "compute", "ask")]
                await model.gate.reached()
                await until(http, runs[2], "requires_action")
                # What was printed less than half a second ago may be lost.
                while not any(map(Path.read_text, (tmp_path / "state" / "spool").iterdir())):
                    await anyio.sleep(0.02)
                process.send_signal(signal.SIGKILL)
                process.wait()
            model.was_killed = True
            model.gate.open()

            with serving(tmp_path, port, server.url):
                await until_ready(http)
                spoken = await until(http, runs[0], "completed", "failed", "expired")
                computed = await until(http, runs[1], "completed", "failed", "expired")
                asked = (await http.get(path_of(runs[2]))).json()
                await http.post(
                    path_of(asked) + "/submit_tool_outputs",
                    json={"tool_outputs": outputs_of(asked)},
                )
                answered = await until(http, {**asked, "status": ""}, "completed", "failed")
                texts = [
                    (await http.get(f"/threads/{run['thread_id']}/messages")).json()["data"][0]
                    for run in (spoken, answered, computed)
                ]
                path = path_of(computed) + "/steps"
                [_, step] = (await http.get(path)).json()["data"]
                path = f"/threads/{computed['thread_id']}/messages"
                free_again = await http.post(path, json={"role": "user", "content": "again"})

    assert spoken["status"] == "completed"
    assert computed["status"] == "completed"
    [call] = step["step_details"]["tool_calls"]
    [logs] = call["code_interpreter"]["outputs"]
    assert logs["logs"].startswith("begun\n") and logs["logs"].endswith(CUT_OFF)
    assert step["usage"]["total_tokens"] > 0
    assert "begun" in model.told and "not run again" in model.told
    assert asked["status"] == "requires_action"
    assert answered["status"] == "completed"
    assert [one["content"][0]["text"]["value"] for one in texts] == ["Whole.", "Fine.", "I know."]
    assert free_again.status_code == 200
    [ran] = tmp_path.glob("sessions/*/ran")
    assert ran.read_text() == "x"
