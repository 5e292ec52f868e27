"""Whole runs with every provider's client: code, functions, failures, all over HTTP."""

import json
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.adapters.assistants.api import ApiClient, open_client
from tests.adapters.assistants.desk import PIXEL, SHOW_PIXEL
from tests.adapters.assistants.models.rig import SHAPES, WEATHER, entry_for
from tests.adapters.assistants.scripted.script import (
    NO_QUOTA,
    OVERFLOW,
    CallTool,
    Cut,
    Fail,
    Refuse,
    Think,
    turn,
)
from tests.adapters.assistants.scripted.server import ScriptedServer

ENDED = ("completed", "failed", "incomplete", "requires_action", "cancelled", "expired")


async def start(api: ApiClient, **fields: Any) -> dict[str, Any]:
    """Create a thread with one question, run it and wait for the run's rest."""
    tools = [{"type": "code_interpreter"}, WEATHER]
    assistant = await api.make("/assistants", {"model": "m", "tools": tools})
    thread = {"messages": [{"role": "user", "content": "What is 6 * 7?"}]}
    body = {"assistant_id": assistant["id"], "thread": thread, **fields}
    return await wait(api, await api.make("/threads/runs", body))


async def wait(api: ApiClient, run: dict[str, Any]) -> dict[str, Any]:
    with anyio.fail_after(30):
        while run["status"] not in ENDED:
            await anyio.sleep(0.01)
            run = await api.fetch(f"/threads/{run['thread_id']}/runs/{run['id']}")
    return run


async def answer(api: ApiClient, run: dict[str, Any]) -> str:
    """Return the text of the newest message."""
    messages = await api.fetch(f"/threads/{run['thread_id']}/messages")
    return "".join(part["text"]["value"] for part in messages["data"][0]["content"])


@pytest.mark.parametrize("shape", SHAPES)
async def test_code_runs_and_its_result_goes_back(
    shape: str, server: ScriptedServer, tmp_path: Path
) -> None:
    code = {"code": "print(6 * 7)"}
    server.follow([turn("Let me see.", CallTool("code_interpreter", code)), turn("It is 42.")])

    async with open_client(tmp_path, models={"m": entry_for(shape, server)}) as api:
        run = await start(api)
        steps = await api.fetch(f"/threads/{run['thread_id']}/runs/{run['id']}/steps")
        text = await answer(api, run)

    assert run["status"] == "completed", run["last_error"]
    assert run["usage"] == {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30}
    assert text == "It is 42."
    kinds = [step["type"] for step in steps["data"]]
    assert kinds == ["message_creation", "tool_calls", "message_creation"]
    [call] = steps["data"][1]["step_details"]["tool_calls"]
    assert call["code_interpreter"]["input"] == "print(6 * 7)"
    [result] = server.requests[1].tool_results
    assert "42" in result


@pytest.mark.parametrize("shape", SHAPES)
async def test_outputs_of_functions_go_back(
    shape: str, server: ScriptedServer, tmp_path: Path
) -> None:
    calls = [CallTool("get_weather", {"city": city}) for city in ("Bern", "Basel")]
    server.follow([turn(*calls), turn("Sunny and wet.")])

    async with open_client(tmp_path, models={"m": entry_for(shape, server)}) as api:
        run = await start(api)
        assert run["status"] == "requires_action", run["last_error"]
        pending = run["required_action"]["submit_tool_outputs"]["tool_calls"]
        outputs = [
            {"tool_call_id": call["id"], "output": output}
            for call, output in zip(pending, ("sunny", "wet"), strict=True)
        ]
        path = f"/threads/{run['thread_id']}/runs/{run['id']}/submit_tool_outputs"
        run = await wait(api, await api.make(path, {"tool_outputs": outputs}))
        text = await answer(api, run)

    assert run["status"] == "completed", run["last_error"]
    assert text == "Sunny and wet."
    assert server.requests[1].tool_results == ["sunny", "wet"]


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (NO_QUOTA, "rate_limit_exceeded"),
        (Fail(status=401, message="Wrong key."), "server_error"),
        (Fail(status=400, message="Invalid schema."), "invalid_prompt"),
        (turn("Hel", Cut()), "server_error"),
    ],
)
async def test_failure_of_the_model_is_the_runs_last_error(
    failure: Any, code: str, server: ScriptedServer, tmp_path: Path
) -> None:
    server.follow([failure])

    async with open_client(tmp_path, models={"m": entry_for("chat", server)}) as api:
        run = await start(api)

    assert run["status"] == "failed"
    assert run["last_error"]["code"] == code
    assert len(server.requests) == 1


async def test_prompt_that_is_too_long_is_shortened(server: ScriptedServer, tmp_path: Path) -> None:
    server.follow([OVERFLOW, turn("It is 42.")])

    async with open_client(tmp_path, models={"m": entry_for("chat", server)}) as api:
        run = await start(api)

    assert run["status"] == "completed", run["last_error"]
    assert server.requests[1].last_text == "What is 6 * 7?"


async def test_answer_that_was_cut_ends_the_run_as_incomplete(
    server: ScriptedServer, tmp_path: Path
) -> None:
    server.follow([turn("Once upon", finish="length")])

    async with open_client(tmp_path, models={"m": entry_for("chat", server)}) as api:
        run = await start(api, max_completion_tokens=300)
        text = await answer(api, run)

    assert run["status"] == "incomplete"
    assert run["incomplete_details"] == {"reason": "max_completion_tokens"}
    assert text == "Once upon"
    assert server.requests[0].body["max_tokens"] == 300


async def test_cut_code_is_never_run(server: ScriptedServer, tmp_path: Path) -> None:
    broken = CallTool("code_interpreter", '{"code": "print(1)\\nprint(')
    server.follow([turn(broken), turn("I could not.")])

    async with open_client(tmp_path, models={"m": entry_for("chat", server)}) as api:
        run = await start(api)
        sessions = await api.api.service.list_sessions()

    assert run["status"] == "completed", run["last_error"]
    assert len(server.requests) == 2
    assert [session for session in sessions if session.principal == "ada"] == []


async def test_what_a_provider_wants_back_goes_with_the_outputs_of_functions(
    server: ScriptedServer, tmp_path: Path
) -> None:
    server.follow(
        [turn(Think("Hm, where?"), CallTool("get_weather", {"city": "Bern"})), turn("Sunny.")]
    )

    async with open_client(tmp_path, models={"m": entry_for("anthropic", server)}) as api:
        run = await start(api)
        path = f"/threads/{run['thread_id']}/runs/{run['id']}"
        [call] = run["required_action"]["submit_tool_outputs"]["tool_calls"]
        outputs = [{"tool_call_id": call["id"], "output": "sunny"}]
        await api.make(f"{path}/submit_tool_outputs", {"tool_outputs": outputs})
        run = await wait(api, {**run, "status": ""})

    assert run["status"] == "completed", run["last_error"]
    [said] = [one for one in server.requests[1].messages if one["role"] == "assistant"]
    assert [block["type"] for block in said["content"]] == ["thinking", "tool_use"]
    assert said["content"][0]["thinking"] == "Hm, where?"


@pytest.mark.parametrize("shape", ["responses", "anthropic"])
async def test_images_of_code_are_shown_again_with_the_outputs_of_functions(
    shape: str, server: ScriptedServer, tmp_path: Path
) -> None:
    code = CallTool("code_interpreter", {"code": SHOW_PIXEL})
    server.follow([turn(code, CallTool("get_weather", {"city": "Bern"})), turn("Sunny.")])
    entry = entry_for(shape, server, tool_images="tool")

    async with open_client(tmp_path, models={"m": entry}) as api:
        run = await start(api)
        path = f"/threads/{run['thread_id']}/runs/{run['id']}"
        [call] = run["required_action"]["submit_tool_outputs"]["tool_calls"]
        outputs = [{"tool_call_id": call["id"], "output": "sunny"}]
        await api.make(f"{path}/submit_tool_outputs", {"tool_outputs": outputs})
        run = await wait(api, {**run, "status": ""})

    assert run["status"] == "completed", run["last_error"]
    assert PIXEL in json.dumps(server.requests[1].body)


async def test_refusal_is_the_answer(server: ScriptedServer, tmp_path: Path) -> None:
    server.follow([turn(Refuse("I won't."))])

    async with open_client(tmp_path, models={"m": entry_for("chat", server)}) as api:
        run = await start(api)
        messages = await api.fetch(f"/threads/{run['thread_id']}/messages")

    assert run["status"] == "completed", run["last_error"]
    assert messages["data"][0]["content"] == [{"type": "refusal", "refusal": "I won't."}]


async def test_run_without_any_model_says_how_to_set_one_up(tmp_path: Path) -> None:
    async with open_client(tmp_path) as api:
        run = await start(api)

    assert run["status"] == "failed"
    assert run["last_error"]["code"] == "server_error"
    assert "export CI_TOOLS_MODELS=" in run["last_error"]["message"]
