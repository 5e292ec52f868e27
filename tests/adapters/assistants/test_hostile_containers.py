"""The HTTP face of sessions, used by somebody who means harm."""

import anyio

from ci_tools.models import new_id
from tests.adapters.assistants.api import ApiClient


async def test_the_id_of_a_foreign_step_is_taken(client: ApiClient) -> None:
    bob = await client.as_principal("bob")
    mine = await client.make("/containers", {"name": "mine"})
    his = await bob.make("/containers", {"name": "his"})
    done = {"code": "1 + 1", "id": new_id("step_")}
    await client.make(f"/containers/{mine['id']}/run_steps", done)

    status, error = await bob.refused(
        "POST", f"/containers/{his['id']}/run_steps", json={"code": "2", "id": done["id"]}
    )

    assert (status, error["code"]) == (400, "invalid_argument")


async def test_the_id_of_a_running_foreign_step_does_not_take_it_over(client: ApiClient) -> None:
    bob = await client.as_principal("bob")
    mine = await client.make("/containers", {"name": "mine"})
    his = await bob.make("/containers", {"name": "his"})
    id = new_id("step_")
    slow = {"code": "import time\ntime.sleep(60)", "id": id, "background": True}
    await client.make(f"/containers/{mine['id']}/run_steps", slow)

    refused = await bob.refused(
        "POST", f"/containers/{his['id']}/run_steps", json={"code": "2", "id": id}
    )
    with anyio.fail_after(20):
        await client.make(f"/run_steps/{id}/cancel")
        ended = await client.fetch(f"/run_steps/{id}", params={"wait": 20})

    assert refused[0] == 400
    assert ended["status"] == "cancelled"


async def test_one_step_that_is_sent_twice_at_once_runs_once(client: ApiClient) -> None:
    container = await client.make("/containers", {"name": "mine"})
    body = {"code": "open('ran', 'a').write('x')", "id": new_id("step_")}
    ids: list[str] = []

    async def send() -> None:
        made = await client.make(f"/containers/{container['id']}/run_steps", body)
        ids.append(made["id"])

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(send)
    ran = await client.get(f"/containers/{container['id']}/paths/ran")

    assert ids == [body["id"]] * 8
    assert ran.content == b"x"


async def test_a_reference_to_a_file_is_short(client: ApiClient) -> None:
    container = await client.make("/containers", {"name": "mine"})

    large = await client.refused(
        "POST", f"/containers/{container['id']}/files", json={"file_id": "x" * 100_000}
    )
    long = await client.refused(
        "POST", f"/containers/{container['id']}/files", json={"file_id": "x" * 10_000}
    )

    assert large[0] == 413
    assert long[0] == 404
    assert len(long[1]["message"]) < 300
