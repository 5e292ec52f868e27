import base64
from typing import Any

import pytest

from langchain_ci_tools.attachments import Attachment, find_attachments

DATA = b"n\n1\n"
TEXT = base64.b64encode(DATA).decode()
URL = f"data:text/csv;base64,{TEXT}"


@pytest.mark.parametrize(
    ("block", "name"),
    [
        # The standard of LangChain 1.
        (
            {
                "type": "file",
                "base64": TEXT,
                "mime_type": "text/csv",
                "extras": {"filename": "a.csv"},
            },
            "a.csv",
        ),
        ({"type": "file", "base64": TEXT, "mime_type": "text/csv"}, "file.csv"),
        ({"type": "file", "base64": TEXT}, "file"),
        # The one before.
        (
            {
                "type": "file",
                "source_type": "base64",
                "data": TEXT,
                "mime_type": "text/csv",
                "filename": "a.csv",
            },
            "a.csv",
        ),
        (
            {
                "type": "file",
                "source_type": "base64",
                "data": TEXT,
                "metadata": {"name": "a.csv"},
            },
            "a.csv",
        ),
        # Chat Completions, Responses, Anthropic.
        ({"type": "file", "file": {"filename": "a.csv", "file_data": URL}}, "a.csv"),
        ({"type": "file", "file": {"file_data": URL}}, "file.csv"),
        ({"type": "input_file", "filename": "a.csv", "file_data": URL}, "a.csv"),
        (
            {
                "type": "document",
                "title": "a.csv",
                "source": {"type": "base64", "media_type": "text/csv", "data": TEXT},
            },
            "a.csv",
        ),
        # Names from outside.
        ({"type": "file", "base64": TEXT, "filename": "../../etc/passwd"}, "passwd"),
        ({"type": "file", "base64": TEXT, "filename": "C:\\data\\a?.csv"}, "a_.csv"),
        ({"type": "file", "base64": TEXT, "filename": "  .. "}, "file"),
    ],
)
def test_files_are_found_in_every_shape(block: dict[str, Any], name: str) -> None:
    [found] = find_attachments([{"type": "text", "text": "look"}, block])

    assert (found.index, found.kind, found.name, found.data) == (1, "file", name, DATA)
    assert found.is_named is not name.startswith("file")


@pytest.mark.parametrize(
    ("block", "name"),
    [
        ({"type": "image", "base64": TEXT, "mime_type": "image/png"}, "image.png"),
        ({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{TEXT}"}}, "image.png"),
        ({"type": "input_image", "image_url": f"data:image/png;base64,{TEXT}"}, "image.png"),
        (
            {
                "type": "image",
                "source": {"type": "base64", "media_type": "image/png", "data": TEXT},
            },
            "image.png",
        ),
    ],
)
def test_images_are_found_in_every_shape(block: dict[str, Any], name: str) -> None:
    expected = Attachment(index=0, kind="image", name=name, is_named=False, data=DATA)
    assert find_attachments([block]) == [expected]


@pytest.mark.parametrize(
    "block",
    [
        {"type": "file", "file_id": "file-1"},
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "file", "source_type": "id", "id": "file-1"},
    ],
)
def test_references_are_found(block: dict[str, Any]) -> None:
    [found] = find_attachments([block])

    assert (found.data, found.file_id) == (None, "file-1")


@pytest.mark.parametrize(
    "content",
    [
        "text",
        [{"type": "text", "text": "text"}, "text"],
        [{"type": "file", "url": "https://example.org/a.csv"}],
        [{"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}],
        [{"type": "image_url", "image_url": "https://example.org/a.png"}],
        [{"type": "file", "base64": "not base64!"}],
        [{"type": "file", "id": "lc_1"}],
    ],
)
def test_addresses_and_broken_data_are_no_files(content: object) -> None:
    assert find_attachments(content) == []


def test_names_in_one_message_are_told_apart() -> None:
    blocks = [{"type": "file", "base64": TEXT, "filename": "a.csv"} for _ in range(3)]

    assert [found.name for found in find_attachments(blocks)] == ["a.csv", "a-2.csv", "a-3.csv"]
