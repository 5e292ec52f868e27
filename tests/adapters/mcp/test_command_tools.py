import json

import anyio
from mcp import Client
from mcp.types import TextResourceContents

from ci_tools import SessionService
from ci_tools_mcp import uris
from tests.adapters.mcp.servers import call, session_of, text_of


async def test_a_command_shares_the_folder_of_the_code(client: Client) -> None:
    session_id = session_of(await call(client, "run_code", code="open('a.txt','w').write('hi')"))

    result = await call(
        client, "run_command", command="cat /mnt/data/a.txt; echo no >&2", session_id=session_id
    )

    assert text_of(result).splitlines()[1:] == ["hi", "[stderr]", "no"]
    assert not result.is_error
    assert result.structured_content == {
        "session_id": session_id,
        "exit_status": 0,
        "timed_out": False,
        "truncated": False,
        "via": "process",
    }


async def test_a_command_runs_while_code_does(client: Client, service: SessionService) -> None:
    code = "import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)"
    running = await call(client, "run_code", code=code, wait_s=0)

    with anyio.fail_after(20):
        result = await call(client, "run_command", command="touch go")

        assert not result.is_error
        (session,) = await service.list_sessions()
        (step,) = await service.list_run_steps(session.id)
        assert (await service.wait_run_step(step.id)).status == "completed"
    assert session.id == session_of(running)


async def test_a_command_that_fails_or_lasts_or_prints_too_much_says_so(client: Client) -> None:
    await call(client, "run_code", code="1")
    failed = await call(client, "run_command", command="exit 4")
    lasting = await call(client, "run_command", command="sleep 300", timeout_s=0.2)
    chatty = await call(client, "run_command", command="yes | head -c 5000", limit=10)

    assert failed.is_error
    assert "Exit status 4" in text_of(failed)
    assert lasting.is_error
    assert "time was up" in text_of(lasting)
    assert not chatty.is_error
    assert "dropped" in text_of(chatty)


async def test_variables_are_a_resource_and_part_of_resuming(client: Client) -> None:
    session_id = session_of(await call(client, "run_code", code="x = [1, 2]; import os"))

    resource = await client.read_resource(uris.variables_uri(session_id))
    prompt = await client.get_prompt("resume_session", {"session_id": session_id})

    (contents,) = resource.contents
    assert isinstance(contents, TextResourceContents)
    assert json.loads(contents.text) == {
        "variables": [{"name": "x", "type": "list", "detail": "length 2"}]
    }
    assert "x (list, length 2)" in prompt.model_dump_json()
