"""Requests of somebody who means harm: strange headers, foreign ids, races."""

import json
import threading
from collections import Counter
from typing import Any

import anyio
import anyio.from_thread
import pytest
from sqlalchemy import Connection

from ci_tools.models import new_id
from ci_tools_assistants import app
from ci_tools_assistants.files import uploads
from ci_tools_assistants.http import requests
from ci_tools_assistants.objects import Kind
from ci_tools_assistants.runs.context import load_context
from ci_tools_assistants.storage.records import Records
from ci_tools_assistants.transfer import endpoints as transfer
from tests.adapters.assistants.api import ApiClient


@pytest.mark.parametrize("count", ["\xb2", "9" * 5000, "-1", "1e3", "\xd9\xa3"])
async def test_a_strange_count_of_retries_is_none(client: ApiClient, count: str) -> None:
    headers = {b"x-stainless-retry-count": count.encode("latin-1")}

    first = await client.make("/threads", headers=headers)
    second = await client.make("/threads", headers=headers)

    assert first["id"] != second["id"]


async def test_no_number_of_an_answer_is_infinite(client: ApiClient) -> None:
    number = "1" + "0" * 250 + "e99"
    function = f'{{"name": "f", "parameters": {{"maximum": {number}}}}}'
    body = f'{{"model": "m", "tools": [{{"type": "function", "function": {function}}}]}}'

    status, _ = await client.refused("POST", "/assistants", content=body.encode())

    assert status == 400


async def test_others_are_answered_while_a_large_body_is_read(
    client: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = requests.parse_json
    begun, others = anyio.Event(), threading.Event()

    def parse_slowly(content: bytes, *, limit: int) -> object:
        if len(content) > 1000:
            anyio.from_thread.run_sync(begun.set)
            assert others.wait(10)
        return read(content, limit=limit)

    monkeypatch.setattr(app, "parse_json", parse_slowly)
    answers: list[int] = []

    async def send_large() -> None:
        body = {"model": "m", "tools": [], "instructions": "x" * 256_000}
        answers.append((await client.post("/assistants", json=body)).status_code)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send_large)
            await begun.wait()
            await client.make("/threads", {"metadata": {"a": "b"}})
            others.set()

    assert answers == [200]


async def test_of_many_unknown_keys_the_first_is_named(client: ApiClient) -> None:
    many: dict[str, Any] = {f"key{number}": number for number in range(50_000)}
    body = {**many, "metadata": {}}

    status, error = await client.refused("POST", "/threads", json=body)

    assert (status, error["param"]) == (400, "key0")


async def test_an_id_of_any_length_is_unknown(client: ApiClient) -> None:
    for path in ("/files", "/threads", "/assistants"):
        assert (await client.refused("DELETE", f"{path}/{'a' * 50_000}"))[0] == 404


async def test_no_object_has_a_purpose_with_a_null_character(records: Records) -> None:
    page = await records.page(Kind.FILE, principal="ada", purpose="\0")

    assert page.data == []


async def test_an_imported_message_does_not_bring_the_steps_of_a_foreign_run(
    client: ApiClient,
) -> None:
    bob = await client.as_principal("bob")
    secret, stolen = new_id("run_"), new_id("thread_")
    await bring(client, *a_run(new_id("thread_"), secret, code="print('the secret')"))
    await bring(bob, a_thread(stolen), a_message(stolen, run_id=secret))

    run = {"id": new_id("run_"), "thread_id": stolen, "tools": []}
    known = await load_context(client.api.service.act_as("bob"), client.api.records, run)

    assert [message["run_id"] for message in known.messages] == [secret]
    assert known.steps == {}


async def test_an_upload_that_is_being_completed_cannot_be_cancelled(
    client: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"filename": "a.txt", "purpose": "assistants", "bytes": 3, "mime_type": "text/plain"}
    upload = await client.make("/uploads", body)
    sent = await client.post(f"/uploads/{upload['id']}/parts", files={"data": b"abc"})
    make, begun, go_on = uploads._make_file, anyio.Event(), anyio.Event()

    async def wait_and_make(*args: Any, **options: Any) -> dict[str, Any]:
        begun.set()
        await go_on.wait()
        return await make(*args, **options)

    monkeypatch.setattr(uploads, "_make_file", wait_and_make)
    done: list[dict[str, Any]] = []

    async def complete() -> None:
        part_ids = {"part_ids": [sent.json()["id"]]}
        done.append(await client.make(f"/uploads/{upload['id']}/complete", part_ids))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(complete)
            await begun.wait()
            refused = await client.refused("POST", f"/uploads/{upload['id']}/cancel")
            go_on.set()

    assert refused[0] == 400
    assert done[0]["status"] == "completed"
    content = await client.get(f"/files/{done[0]['file']['id']}/content")
    assert content.content == b"abc"


async def test_a_large_import_lets_others_in_between(
    client: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, sizes = transfer._add_missing, list[int]()

    def note(conn: Connection, **what: Any) -> Counter[Kind]:
        sizes.append(len(what["items"]))
        return add(conn, **what)

    monkeypatch.setattr(transfer, "_BATCH", 2)
    monkeypatch.setattr(transfer, "_add_missing", note)
    id = new_id("thread_")
    messages = [a_message(id) for _ in range(5)]

    await bring(client, a_thread(id), *messages)

    found = await client.fetch(f"/threads/{id}/messages", params={"order": "asc"})
    assert sizes == [2, 2, 1]
    assert [one["id"] for one in found["data"]] == [one["id"] for one in messages]


async def bring(client: ApiClient, *objects: dict[str, Any]) -> None:
    lines = "\n".join(json.dumps(item) for item in objects)
    response = await client.post("/import", content=lines)
    assert response.status_code == 200, response.text


def a_thread(id: str) -> dict[str, Any]:
    return {"id": id, "object": "thread", "created_at": 1}


def a_message(thread_id: str, **more: Any) -> dict[str, Any]:
    text = {"type": "text", "text": {"value": "x", "annotations": []}}
    return {
        "id": new_id("msg_"),
        "object": "thread.message",
        "created_at": 1,
        "thread_id": thread_id,
        "role": "assistant",
        "content": [text],
        **more,
    }


def a_run(thread_id: str, run_id: str, *, code: str) -> list[dict[str, Any]]:
    ids = {"thread_id": thread_id, "assistant_id": new_id("asst_"), "created_at": 1}
    done = {"status": "completed", **ids}
    cell = {"input": code, "outputs": [{"type": "logs", "logs": "the secret"}]}
    call = {"id": "call_1", "type": "code_interpreter", "code_interpreter": cell}
    return [
        a_thread(thread_id),
        {"id": run_id, "object": "thread.run", "model": "m", **done},
        {
            "id": new_id("step_"),
            "object": "thread.run.step",
            "run_id": run_id,
            "type": "tool_calls",
            "step_details": {"type": "tool_calls", "tool_calls": [call]},
            **done,
        },
    ]
