import json
from typing import Any

import jsonschema  # type: ignore[import-untyped]

from ci_tools_assistants.http.answers import answer_schemas
from ci_tools_assistants.http.openapi import to_document
from ci_tools_assistants.operations import all_operations
from tests.adapters.assistants.api import ApiClient
from tests.adapters.assistants.test_transfer import fill


async def test_the_document_has_every_operation_and_itself(client: ApiClient) -> None:
    document = await client.fetch("/openapi.json")

    paths = document["paths"]
    for operation in all_operations():
        assert operation.method.lower() in paths[operation.path.replace(":path}", "}")]
    assert "/openapi.json" in paths
    assert document["openapi"].startswith("3.1")


def test_every_reference_leads_somewhere() -> None:
    document = to_document(all_operations())

    def check(value: Any) -> None:
        if isinstance(value, dict):
            if "$ref" in value:
                *_, name = value["$ref"].split("/")
                assert name in document["components"]["schemas"]
            for one in value.values():
                check(one)
        elif isinstance(value, list):
            for one in value:
                check(one)

    check(document)
    assert json.dumps(document)


def test_operations_have_ids_of_their_own() -> None:
    document = to_document(all_operations())
    ids = [one["operationId"] for item in document["paths"].values() for one in item.values()]

    assert len(ids) == len(set(ids))


async def test_answers_are_what_the_document_says(client: ApiClient) -> None:
    assistant_id, thread_id = await fill(client)
    await client.upload()
    schemas = answer_schemas()

    def check(name: str, item: dict[str, Any]) -> None:
        jsonschema.validate(item, {**schemas[name], "components": {"schemas": schemas}})
        assert set(item) <= set(schemas[name]["properties"])

    run = (await client.fetch(f"/threads/{thread_id}/runs"))["data"][0]
    for name, path in (
        ("AssistantObject", f"/assistants/{assistant_id}"),
        ("ListAssistantsResponse", "/assistants"),
        ("ThreadObject", f"/threads/{thread_id}"),
        ("ListMessagesResponse", f"/threads/{thread_id}/messages"),
        ("ListRunsResponse", f"/threads/{thread_id}/runs"),
        ("RunObject", f"/threads/{thread_id}/runs/{run['id']}"),
        ("ListRunStepsResponse", f"/threads/{thread_id}/runs/{run['id']}/steps"),
        ("ListFilesResponse", "/files"),
        ("ListModelsResponse", "/models"),
    ):
        check(name, await client.fetch(path))
