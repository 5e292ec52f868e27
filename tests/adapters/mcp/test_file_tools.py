import base64
import hashlib

import pytest
from mcp import Client

from ci_tools import SessionService
from tests.adapters.mcp.servers import (
    body_of,
    call,
    images_of,
    links_of,
    session_of,
    structured,
    text_of,
)

PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)


async def test_an_uploaded_file_is_there_for_code(client: Client) -> None:
    text = '{"a": 1}'

    uploaded = await structured(client, "upload_file", path="in/a.json", content=text)
    result = await call(client, "run_code", code="open('in/a.json').read()")

    assert uploaded["path"] == "in/a.json"
    assert uploaded["size"] == len(text)
    assert uploaded["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert session_of(result) == uploaded["session_id"]
    assert body_of(result) == repr(text)


async def test_bytes_are_uploaded_as_base64(client: Client) -> None:
    content = base64.b64encode(bytes(range(256))).decode()

    uploaded = await structured(
        client, "upload_file", path="a.bin", content=content, encoding="base64"
    )

    assert uploaded["size"] == 256


@pytest.mark.parametrize("content", ["not base64!", "YWJj\nZGVm", "YWJ"])
async def test_broken_base64_is_refused(client: Client, content: str) -> None:
    result = await call(client, "upload_file", path="a", content=content, encoding="base64")

    assert result.is_error
    assert "base64" in text_of(result)


@pytest.mark.parametrize("path", ["../a", "/etc/passwd", "a/../../b", "", "a\0b"])
async def test_names_that_leave_the_folder_are_refused(client: Client, path: str) -> None:
    for tool in ("upload_file", "read_file"):
        result = await call(client, tool, path=path)

        assert result.is_error
        assert "/mnt/data" in text_of(result)


async def test_an_upload_without_a_session_makes_one_over_http(http_client: Client) -> None:
    first = await structured(http_client, "upload_file", path="a.txt", content="a")
    second = await structured(http_client, "upload_file", path="a.txt", content="a")

    assert first["session_id"] != second["session_id"]


async def test_files_are_listed_and_filtered(client: Client) -> None:
    for path in ("b.csv", "a.csv", "sub/c.csv", "sub/d.txt"):
        await structured(client, "upload_file", path=path, content="x")

    async def names(**arguments: object) -> list[str]:
        listed = await structured(client, "list_files", **arguments)
        return [file["path"] for file in listed["files"]]

    assert await names() == ["a.csv", "b.csv", "sub/c.csv", "sub/d.txt"]
    assert await names(path="sub") == ["sub/c.csv", "sub/d.txt"]
    assert await names(path="/mnt/data/sub/") == ["sub/c.csv", "sub/d.txt"]
    assert await names(pattern="*.csv") == ["a.csv", "b.csv", "sub/c.csv"]
    assert await names(pattern="sub/*.txt") == ["sub/d.txt"]
    assert await names(limit=1) == ["a.csv"]
    listed = await structured(client, "list_files", limit=1)
    assert listed["omitted"] == 3
    assert listed["files"][0]["mime_type"] == "text/csv"


async def test_text_is_read_in_slices_without_broken_characters(client: Client) -> None:
    text = "ä€😀" * 1000
    await structured(client, "upload_file", path="a.txt", content=text)
    read, offset = "", 0

    while True:
        page = await call(client, "read_file", path="a.txt", offset=offset, limit=1000)
        read += body_of(page)
        offset = len(read.encode())
        if "read on with" not in text_of(page):
            break
        assert f"offset={offset}" in text_of(page)

    assert read == text


async def test_an_offset_inside_a_character_starts_at_the_next(client: Client) -> None:
    await structured(client, "upload_file", path="a.txt", content="€uro")

    assert body_of(await call(client, "read_file", path="a.txt", offset=1)) == "uro"


async def test_an_empty_file_is_text(client: Client) -> None:
    await structured(client, "upload_file", path="a.txt", content="")

    result = await call(client, "read_file", path="a.txt")

    assert body_of(result) == ""
    assert "0 to 0 of 0" in text_of(result)


async def test_an_image_is_seen(client: Client) -> None:
    content = base64.b64encode(PNG).decode()
    await structured(client, "upload_file", path="a.png", content=content, encoding="base64")

    result = await call(client, "read_file", path="sandbox:/mnt/data/a.png")

    assert [(image.mime_type, image.data) for image in images_of(result)] == [
        ("image/png", content)
    ]


async def test_binary_files_are_links_and_over_http_tickets(http_client: Client) -> None:
    content = base64.b64encode(bytes(100)).decode()
    uploaded = await structured(
        http_client, "upload_file", path="a.bin", content=content, encoding="base64"
    )

    result = await call(http_client, "read_file", session_id=uploaded["session_id"], path="a.bin")

    assert links_of(result) == [uploaded["uri"]]
    assert "https://ci.example/tickets/" in text_of(result)


async def test_large_files_are_uploaded_by_ticket(
    http_client: Client, service: SessionService
) -> None:
    answer = await structured(http_client, "upload_file", path="big.bin", ticket=True)

    prefix, _, secret = answer["put_url"].rpartition("/")
    ticket = await service.redeem_ticket(secret, "upload")
    assert prefix == "https://ci.example/tickets"
    assert (ticket.session_id, ticket.path) == (answer["session_id"], "big.bin")
    assert answer["valid_s"] == 900


async def test_there_are_no_tickets_without_http(client: Client) -> None:
    result = await call(client, "upload_file", path="big.bin", ticket=True)

    assert result.is_error
    assert "ci-tools serve" in text_of(result)
    assert "pieces" not in text_of(result)


async def test_content_beside_a_ticket_is_refused(http_client: Client) -> None:
    result = await call(http_client, "upload_file", path="a.txt", ticket=True, content="abc")

    assert result.is_error
    assert "not both" in text_of(result)


async def test_a_missing_file_is_an_error(client: Client) -> None:
    result = await call(client, "read_file", path="none.txt")

    assert result.is_error
    assert "list_files" in text_of(result)


async def test_an_old_word_file_is_named_and_how_to_convert_it(client: Client) -> None:
    content = base64.b64encode(bytes.fromhex("d0cf11e0a1b11ae1") + bytes(504)).decode()

    uploaded = await structured(
        client, "upload_file", path="a.doc", content=content, encoding="base64"
    )
    result = await call(client, "read_file", path="a.doc", session_id=uploaded["session_id"])

    assert "--convert-to docx" in uploaded["advice"]
    assert "--convert-to docx" in text_of(result)
