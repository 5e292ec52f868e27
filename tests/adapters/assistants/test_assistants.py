from typing import Any

import anyio
import pytest

from tests.adapters.assistants.api import V1, ApiClient

FUNCTION = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tell the weather",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
        "strict": True,
    },
}

SEARCH = {
    "type": "file_search",
    "file_search": {"max_num_results": 5, "ranking_options": {"score_threshold": 0.5}},
}


async def test_an_assistant_has_every_field_of_the_specification(client: ApiClient) -> None:
    made = await client.make("/assistants", {"model": "gpt-4o"})

    assert made.pop("id").startswith("asst_")
    assert isinstance(made.pop("created_at"), int)
    assert made == {
        "object": "assistant",
        "name": None,
        "description": None,
        "model": "gpt-4o",
        "instructions": None,
        "tools": [],
        "tool_resources": {},
        "metadata": {},
        "temperature": 1.0,
        "top_p": 1.0,
        "response_format": "auto",
    }


async def test_what_was_sent_comes_back_unchanged(client: ApiClient) -> None:
    sent = {
        "model": "gpt-4o",
        "name": "Tutor",
        "description": "Teaches 🦜",
        "instructions": "Be kind.",
        "tools": [{"type": "code_interpreter"}, SEARCH, FUNCTION],
        "metadata": {"key": "value"},
        "temperature": 0.3,
        "top_p": 0.5,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True},
        },
        "reasoning_effort": "low",
    }

    made = await client.make("/assistants", sent)

    assert {key: made[key] for key in sent} == sent
    assert await client.fetch(f"/assistants/{made['id']}") == made


async def test_a_change_keeps_what_it_does_not_name(client: ApiClient) -> None:
    file_id = await client.upload()
    made = await client.make(
        "/assistants",
        {
            "model": "gpt-4o",
            "name": "Tutor",
            "tools": [FUNCTION],
            "tool_resources": {"code_interpreter": {"file_ids": [file_id]}},
        },
    )

    changed = await client.make(
        f"/assistants/{made['id']}", {"name": None, "metadata": {"a": "b"}, "temperature": None}
    )

    cleared = await client.make(f"/assistants/{made['id']}", {"tool_resources": None})

    assert changed == {**made, "name": None, "metadata": {"a": "b"}}
    assert cleared == {**changed, "tool_resources": {}}


async def test_a_deleted_assistant_is_gone(client: ApiClient) -> None:
    made = await client.make("/assistants", {"model": "gpt-4o"})

    response = await client.delete(f"/assistants/{made['id']}")

    assert response.json() == {"id": made["id"], "object": "assistant.deleted", "deleted": True}
    status, error = await client.refused("GET", f"/assistants/{made['id']}")
    assert status == 404
    assert error["message"] == f"No assistant found with id '{made['id']}'."


REFUSED: list[tuple[Any, str | None, str]] = [
    ({}, "model", "Missing required parameter: 'model'."),
    ([], None, "Invalid type for 'body': expected an object, but got an array instead."),
    ({"model": 1}, "model", "Invalid type for 'model': expected a string, but got an integer inst"),
    ({"model": "m", "x": 1}, "x", "Unknown parameter: 'x'."),
    ({"model": "m", "name": "n" * 257}, "name", "Invalid 'name': string too long. Expected a str"),
    ({"model": "m", "description": "n" * 513}, "description", "Invalid 'description': string too"),
    ({"model": "m", "instructions": "n" * 256_001}, "instructions", "Invalid 'instructions': str"),
    ({"model": "m", "tools": [FUNCTION] * 129}, "tools", "Invalid 'tools': array too long. Expec"),
    ({"model": "m", "tools": [{}]}, "tools[0].type", "Missing required parameter: 'tools[0].type'"),
    ({"model": "m", "tools": ["x"]}, "tools[0]", "Invalid type for 'tools[0]': expected one of t"),
    (
        {"model": "m", "tools": [{"type": "retrieval"}]},
        "tools[0]",
        "Invalid value: 'retrieval'. Supported values are: 'code_interpreter', 'file_search'",
    ),
    (
        {"model": "m", "tools": [{"type": "function", "function": {}}]},
        "tools[0].function.name",
        "Missing required parameter: 'tools[0].function.name'.",
    ),
    ({"model": "m", "temperature": 3}, "temperature", "Invalid 'temperature': integer above maxi"),
    ({"model": "m", "temperature": 2.5}, "temperature", "Invalid 'temperature': decimal above ma"),
    ({"model": "m", "top_p": -1}, "top_p", "Invalid 'top_p': integer below minimum value. Expec"),
    ({"model": "m", "metadata": {"a": 1}}, "metadata.a", "Invalid type for 'metadata.a': expecte"),
    (
        {"model": "m", "metadata": {str(number): "x" for number in range(17)}},
        "metadata",
        "Invalid 'metadata': too many properties. Expected an object with at most 16 properties, "
        "but got an object with 17 properties instead.",
    ),
    ({"model": "m", "metadata": {"k" * 65: "x"}}, "metadata", "Invalid 'metadata': key too long."),
    ({"model": "m", "metadata": {"k": "x" * 513}}, "metadata", "Invalid 'metadata': value too lo"),
    ({"model": "m", "response_format": "json"}, "response_format", "Invalid value: 'json'. Suppo"),
    ({"model": "m", "response_format": {"type": "x"}}, "response_format", "Invalid value: 'x'. S"),
    (
        {"model": "m", "tool_resources": {"code_interpreter": {"file_ids": ["f"] * 21}}},
        "tool_resources.code_interpreter.file_ids",
        "Invalid 'tool_resources.code_interpreter.file_ids': array too long. Expected an array "
        "with maximum length 20, but got an array with length 21 instead.",
    ),
]


@pytest.mark.parametrize(("body", "param", "message"), REFUSED)
async def test_bad_input_is_named(
    client: ApiClient, body: Any, param: str | None, message: str
) -> None:
    status, error = await client.refused("POST", "/assistants", json=body)

    assert error["message"].startswith(message)
    assert (status, error["type"], error["param"]) == (400, "invalid_request_error", param)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"nonsense", b"\xff", b'{"a": NaN}', b"[" * 100_000, b'{"a": 1e999}', b'"\\ud800"'],
)
async def test_what_is_no_json_is_a_400(client: ApiClient, content: bytes) -> None:
    status, error = await client.refused("POST", "/assistants", content=content)

    assert (status, error["type"]) == (400, "invalid_request_error")


async def test_a_body_that_is_too_large_is_refused(client: ApiClient) -> None:
    status, _ = await client.refused("POST", "/assistants", content=b" " * (17 << 20))

    assert status == 413


@pytest.mark.parametrize(
    "content",
    [
        b"[" + b"1," * 500_000 + b"1]",
        b'{"metadata":{' + b'"k":"x",' * 500_000 + b'"k":"x"}}',
        b"[" * 1_000_000,
    ],
)
async def test_more_values_than_anybody_means_are_refused_unread(
    client: ApiClient, content: bytes
) -> None:
    status, _ = await client.refused("POST", "/assistants", content=content)

    assert status == 413


async def test_long_texts_full_of_marks_are_no_values(client: ApiClient) -> None:
    text = '[,{"\\' * 40_000

    made = await client.make("/assistants", {"model": "m", "instructions": text})

    assert made["instructions"] == text


@pytest.mark.parametrize("content", [b'"' + b'\\"' * 2_000_000, b"\\" * 4_000_000])
async def test_what_never_ends_is_read_once(client: ApiClient, content: bytes) -> None:
    with anyio.fail_after(5):
        status, _ = await client.refused("POST", "/assistants", content=content)

    assert status == 400


async def test_numbers_that_json_cannot_give_back_are_refused(client: ApiClient) -> None:
    tool = b'{"type":"function","function":{"name":"f","parameters":{"a":1e999}}}'

    status, error = await client.refused(
        "POST", "/assistants", content=b'{"model":"m","tools":[' + tool + b"]}"
    )

    assert (status, error["param"]) == (400, "tools[0].function.parameters")


async def test_files_must_exist_and_suit_their_tool(client: ApiClient) -> None:
    def body(file_id: str) -> Any:
        resources = {"code_interpreter": {"file_ids": [file_id]}}
        return {"model": "m", "tool_resources": resources}

    unknown = await client.refused("POST", "/assistants", json=body("file-unknown"))
    strange = await client.refused("POST", "/assistants", json=body(await client.upload("a.xyz")))

    assert unknown[0] == 404
    assert unknown[1]["message"] == "No file found with id 'file-unknown'."
    assert strange[0] == 400
    assert "'.xyz'" in strange[1]["message"]
    assert "code_interpreter" in strange[1]["message"]


async def test_vector_stores_are_refused_clearly(client: ApiClient) -> None:
    resources: Any = {"file_search": {"vector_stores": [{"file_ids": []}]}}

    helper = await client.refused(
        "POST", "/assistants", json={"model": "m", "tool_resources": resources}
    )
    endpoint = await client.refused("POST", "/vector_stores", json={"name": "x"})
    deeper = await client.refused("GET", "/vector_stores/vs_1/files/file-1/content")
    named = await client.refused(
        "POST",
        "/assistants",
        json={"model": "m", "tool_resources": {"file_search": {"vector_store_ids": ["vs_1"]}}},
    )

    assert [helper[0], endpoint[0], deeper[0], named[0]] == [501, 501, 501, 404]
    assert helper[1]["code"] == endpoint[1]["code"] == "not_implemented"
    assert (await client.get("/vector_stores")).headers["x-should-retry"] == "false"


async def test_lists_are_paged_newest_first(client: ApiClient) -> None:
    made = [
        await client.make("/assistants", {"model": "m", "name": str(number)}) for number in range(5)
    ]
    ids = [item["id"] for item in made[::-1]]

    first = await client.fetch("/assistants", params={"limit": 2})
    second = await client.fetch("/assistants", params={"limit": 2, "after": first["last_id"]})
    back = await client.fetch("/assistants", params={"limit": 2, "before": ids[3]})
    rising = await client.fetch("/assistants", params={"order": "asc"})

    assert first == {
        "object": "list",
        "data": made[:2:-1],
        "first_id": ids[0],
        "last_id": ids[1],
        "has_more": True,
    }
    assert [item["id"] for item in second["data"]] == ids[2:4]
    assert [item["id"] for item in back["data"]] == ids[1:3]
    assert [item["id"] for item in rising["data"]] == ids[::-1]
    assert (await client.fetch("/assistants", params={"after": ids[4]})) == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "101"}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"order": "up"}, "order"),
    ],
)
async def test_bad_paging_is_named(client: ApiClient, query: dict[str, str], param: str) -> None:
    status, error = await client.refused("GET", "/assistants", params=query)

    assert (status, error["param"]) == (400, param) or "Supported values" in error["message"]


async def test_an_unknown_cursor_is_named(client: ApiClient) -> None:
    status, error = await client.refused("GET", "/assistants", params={"after": "asst_x"})

    assert status == 404
    assert "asst_x" in error["message"]


async def test_version_1_sees_file_ids_and_retrieval(client: ApiClient) -> None:
    file_id = await client.upload()
    made = await client.make(
        "/assistants",
        {"model": "m", "tools": [{"type": "retrieval"}], "file_ids": [file_id]},
        headers=V1,
    )

    assert made["tools"] == [{"type": "retrieval"}]
    assert made["file_ids"] == [file_id]
    assert "tool_resources" not in made
    newer = await client.fetch(f"/assistants/{made['id']}")
    assert newer["tools"] == [{"type": "file_search"}]
    assert newer["tool_resources"] == {"code_interpreter": {"file_ids": [file_id]}}
    assert "file_ids" not in newer


async def test_version_2_does_not_know_the_fields_of_version_1(client: ApiClient) -> None:
    status, error = await client.refused("POST", "/assistants", json={"model": "m", "file_ids": []})

    assert (status, error["message"]) == (400, "Unknown parameter: 'file_ids'.")


@pytest.mark.parametrize("file_ids", ["file-1", [1], ["x"] * 21])
async def test_bad_file_ids_of_version_1_are_named(client: ApiClient, file_ids: Any) -> None:
    status, error = await client.refused(
        "POST", "/assistants", json={"model": "m", "file_ids": file_ids}, headers=V1
    )

    assert (status, error["param"]) == (400, "file_ids")


async def test_the_files_of_an_assistant_are_objects_in_version_1(client: ApiClient) -> None:
    first, second = await client.upload(), await client.upload("b.csv")
    made = await client.make("/assistants", {"model": "m", "file_ids": [first]}, headers=V1)
    path = f"/assistants/{made['id']}/files"

    attached = await client.make(path, {"file_id": second}, headers=V1)
    again = await client.make(path, {"file_id": second}, headers=V1)
    listed = await client.fetch(path, headers=V1)
    page = await client.fetch(path, headers=V1, params={"limit": 1, "order": "asc"})

    assert attached == again
    assert attached == {
        "id": second,
        "object": "assistant.file",
        "created_at": attached["created_at"],
        "assistant_id": made["id"],
    }
    assert [item["id"] for item in listed["data"]] == [second, first]
    assert [item["id"] for item in page["data"]] == [first]
    assert page["has_more"] is True
    assert await client.fetch(f"{path}/{second}", headers=V1) == attached

    response = await client.delete(f"{path}/{first}", headers=V1)

    assert response.json() == {"id": first, "object": "assistant.file.deleted", "deleted": True}
    assert (await client.fetch(f"/assistants/{made['id']}", headers=V1))["file_ids"] == [second]
    assert (await client.refused("GET", f"{path}/{first}", headers=V1))[0] == 404
    await client.fetch(f"/files/{first}")
