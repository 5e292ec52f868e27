import base64
import json
from typing import Any

import nbformat
import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp.types import (
    INVALID_PARAMS,
    BlobResourceContents,
    PromptReference,
    ResourceTemplateReference,
    TextContent,
    TextResourceContents,
)

from ci_tools import SessionService
from ci_tools_mcp import resources, uris
from tests.adapters.mcp.servers import call, make_server, session_of, step_of, structured


async def read(client: Client, uri: str) -> TextResourceContents | BlobResourceContents:
    return (await client.read_resource(uri)).contents[0]


async def read_text(client: Client, uri: str) -> str:
    contents = await read(client, uri)
    assert isinstance(contents, TextResourceContents)
    return contents.text


async def test_the_server_tells_about_itself(client: Client) -> None:
    about = json.loads(await read_text(client, "ci://about"))

    assert about["kernels"]
    assert about["limits"]["step_timeout_s"] == 300
    assert (about["servers"], about["isolation"]) == (["embedded"], "auto")


async def test_resources_and_templates_are_listed(client: Client) -> None:
    listed = (await client.list_resources()).resources
    templates = (await client.list_resource_templates()).resource_templates

    assert [resource.uri for resource in listed] == [uris.ABOUT]
    assert {template.uri_template for template in templates} == {
        uris.FILE,
        uris.STEP,
        uris.IMAGE,
        uris.NOTEBOOK,
        uris.VARIABLES,
    }
    assert all(template.title and template.description for template in templates)


@pytest.mark.parametrize(
    ("path", "media_type"),
    [("a.csv", "text/csv"), ("a.png", "image/png"), ("ä b/c.md", "text/markdown")],
)
async def test_a_file_has_its_own_media_type(client: Client, path: str, media_type: str) -> None:
    uploaded = await structured(client, "upload_file", path=path, content="text")

    contents = await read(client, uploaded["uri"])

    assert contents.mime_type == media_type
    assert isinstance(contents, TextResourceContents)
    assert contents.text == "text"


async def test_a_file_that_is_not_text_is_a_blob(client: Client) -> None:
    content = base64.b64encode(bytes(range(256))).decode()
    uploaded = await structured(
        client, "upload_file", path="noname", content=content, encoding="base64"
    )

    contents = await read(client, uploaded["uri"])

    assert contents.mime_type == "application/octet-stream"
    assert isinstance(contents, BlobResourceContents)
    assert contents.blob == content


async def test_a_file_that_is_too_large_is_refused(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "RESOURCE_LIMIT", 3)
    uploaded = await structured(client, "upload_file", path="a.txt", content="text")

    with pytest.raises(MCPError, match="read_file"):
        await read(client, uploaded["uri"])


async def test_a_step_has_its_whole_output(client: Client) -> None:
    result = await call(client, "run_code", code="print('x' * 100_000)\n1/0")

    text = await read_text(client, uris.step_uri(session_of(result), step_of(result)))

    step = json.loads(text)
    assert step["status"] == "failed"
    assert step["outputs"][0]["text"] == "x" * 100_000 + "\n"
    assert step["outputs"][1]["name"] == "ZeroDivisionError"
    assert step["code"].startswith("print")


async def test_a_step_whose_output_was_cut_has_its_whole_text(
    small_service: SessionService,
) -> None:
    async with Client(make_server(small_service)) as client:
        code = "print('x' * 5_000)\ndisplay({'text/plain': 'y'}, raw=True)"
        result = await call(client, "run_code", code=code)
        text = await read_text(client, uris.step_uri(session_of(result), step_of(result)))

    step = json.loads(text)
    assert step["text"].startswith("x" * 5_000)
    assert step["text_size"] >= 5_001
    assert step["outputs"][0]["omitted_characters"] > 0
    assert step["outputs"][1]["data"] == {"text/plain": "y"}


async def test_a_session_is_a_notebook(client: Client) -> None:
    session_id = session_of(await call(client, "run_code", code="6 * 7"))

    contents = await read(client, uris.notebook_uri(session_id))

    assert contents.mime_type == "application/x-ipynb+json"
    assert isinstance(contents, TextResourceContents)
    notebook: dict[str, Any] = json.loads(contents.text)
    nbformat.validate(notebook)
    assert notebook["cells"][0]["source"] == "6 * 7"


async def test_unknown_and_foreign_resources_look_alike(
    client: Client, service: SessionService
) -> None:
    bob = service.act_as("bob")
    foreign = (await bob.create_session()).id
    step = await bob.run_code(foreign, "open('a.txt', 'w').write('x')")
    own = session_of(await call(client, "run_code", code="1"))
    unknown = "sess_" + "0" * 24
    addresses = [
        (uris.file_uri(session, "a.txt"), uris.notebook_uri(session))
        for session in (foreign, unknown)
    ]
    addresses.append((uris.step_uri(own, step.id), uris.file_uri(own, "none.txt")))
    addresses.append((uris.image_uri(own, step.id, 1, "image/png"), "ci://nowhere"))

    for uri in [uri for pair in addresses for uri in pair]:
        with pytest.raises(MCPError) as caught:
            await read(client, uri)
        assert caught.value.code == INVALID_PARAMS


async def test_a_step_is_only_in_its_own_session(http_client: Client) -> None:
    one = await call(http_client, "run_code", code="1")
    other = await call(http_client, "run_code", code="1")

    with pytest.raises(MCPError) as caught:
        await read(http_client, uris.step_uri(session_of(one), step_of(other)))

    assert caught.value.code == INVALID_PARAMS


async def test_an_image_that_is_not_there_is_an_error(client: Client) -> None:
    result = await call(client, "run_code", code="1")

    with pytest.raises(MCPError) as caught:
        await read(client, uris.image_uri(session_of(result), step_of(result), 1, "image/png"))

    assert caught.value.code == INVALID_PARAMS


async def test_a_listener_hears_of_changed_files(client: Client) -> None:
    session_id = session_of(await call(client, "run_code", code="1"))
    uri = uris.file_uri(session_id, "a.txt")

    async with client.listen(resource_subscriptions=[uri]) as events:
        await call(client, "run_code", code="open('a.txt', 'w').write('x')")
        event = await anext(aiter(events))

    assert getattr(event, "uri", None) == uri


# Completions


async def complete(client: Client, name: str, value: str, **known: str) -> list[str]:
    reference = ResourceTemplateReference(type="ref/resource", uri=uris.FILE)
    result = await client.complete(
        reference, {"name": name, "value": value}, context_arguments=known
    )
    return result.completion.values


async def test_ids_paths_and_kernels_are_completed(client: Client, service: SessionService) -> None:
    await service.act_as("bob").create_session()
    result = await call(client, "run_code", code="1")
    session_id = session_of(result)
    for path in ("a.csv", "a.txt", "b.txt"):
        await structured(client, "upload_file", path=path, content="x")
    kernel = (await service.list_kernelspecs())[0].name

    assert await complete(client, "session_id", "sess_") == [session_id]
    assert await complete(client, "session_id", "other") == []
    assert await complete(client, "step_id", "", session_id=session_id) == [step_of(result)]
    assert await complete(client, "path", "a", session_id=session_id) == ["a.csv", "a.txt"]
    assert await complete(client, "path", "a") == []
    assert await complete(client, "path", "", session_id="sess_none") == []
    assert await complete(client, "kernel", kernel[:2]) == [kernel]
    assert await complete(client, "colour", "") == []


async def test_prompt_arguments_are_completed(client: Client) -> None:
    session_id = session_of(await call(client, "run_code", code="1"))
    reference = PromptReference(type="ref/prompt", name="resume_session")

    result = await client.complete(reference, {"name": "session_id", "value": ""})

    assert result.completion.values == [session_id]


# Prompts


async def prompt_text(client: Client, name: str, **arguments: str) -> str:
    content = (await client.get_prompt(name, arguments)).messages[0].content
    assert isinstance(content, TextContent)
    return content.text


async def test_a_file_is_to_be_analysed(client: Client) -> None:
    uploaded = await structured(client, "upload_file", path="a.csv", content="x,y")

    text = await prompt_text(
        client, "analyze_file", session_id=uploaded["session_id"], path="a.csv"
    )

    assert "'a.csv' (3 bytes, text/csv)" in text
    assert uploaded["session_id"] in text


async def test_a_session_is_to_be_resumed(client: Client) -> None:
    session_id = session_of(await call(client, "run_code", code="x = 1"))
    await call(client, "run_code", code="open('a.txt', 'w').write('x')")

    text = await prompt_text(client, "resume_session", session_id=session_id)

    assert text.startswith(f"Go on in session {session_id} (kernel python3); pass")
    assert text.index("x = 1") < text.index("open(")
    assert "- a.txt (1 bytes)" in text
    assert "still has its variables" in text


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("nothing", {}),
        ("resume_session", {}),
        ("resume_session", {"session_id": "sess_none"}),
        ("analyze_file", {"session_id": "sess_none", "path": "a"}),
    ],
)
async def test_what_is_wrong_with_a_prompt_is_said(
    client: Client, name: str, arguments: dict[str, str]
) -> None:
    with pytest.raises(MCPError) as caught:
        await client.get_prompt(name, arguments)

    assert caught.value.code == INVALID_PARAMS
    assert "rror rendering" not in caught.value.message
