"""The table of supported files, and that the documentation shows it as it is."""

import re
from pathlib import Path

import pytest

from ci_tools_assistants.errors import ApiError
from ci_tools_assistants.files.encodings import EncodingProbe
from ci_tools_assistants.files.supported_files import (
    FileTool,
    check_attachable,
    find_extension,
    find_media_type,
    holds_text,
    list_supported,
)
from ci_tools_assistants.objects import Object

PAGE = Path(__file__).parents[3] / "docs" / "assistants-files.md"

FROM_THE_GUIDES = """
.c .cpp .cs .css .csv .doc .docx .gif .html .java .jpeg .jpg .js .json .md .pdf .php .png .pptx .py
.rb .sh .tar .tex .ts .txt .xlsx .xml .zip
"""


def file(filename: str) -> Object:
    return {"id": "file-1", "object": "file", "filename": filename}


def test_the_table_is_the_union_of_both_guides() -> None:
    assert list(list_supported()) == FROM_THE_GUIDES.split()


def test_the_documentation_shows_the_table() -> None:
    shown = [
        tuple(cell.strip() for cell in line.strip("|").split("|"))
        for line in PAGE.read_text("utf-8").splitlines()
        if re.match(r"\| `\.\w+`", line)
    ]

    assert shown == [
        (
            f"`{row.extension}`",
            ", ".join(f"`{mime_type}`" for mime_type in row.mime_types),
            "yes" if "code_interpreter" in row.tools else "no",
            "yes" if "file_search" in row.tools else "no",
        )
        for row in list_supported().values()
    ]


@pytest.mark.parametrize("extension", FROM_THE_GUIDES.split())
def test_every_row_can_be_given_to_the_code_interpreter(extension: str) -> None:
    check_attachable(file(f"a{extension}"), "code_interpreter")
    check_attachable(file(f"A.B{extension.upper()}"), "code_interpreter")


@pytest.mark.parametrize(
    ("filename", "tool", "extension"),
    [
        ("movie.mp4", "code_interpreter", "'.mp4'"),
        ("plot.png", "file_search", "'.png'"),
        ("all.zip", "file_search", "'.zip'"),
        ("Makefile", "code_interpreter", "no extension"),
        (".csv", "code_interpreter", "no extension"),
        ("a.", "code_interpreter", "'.'"),
    ],
)
def test_a_file_that_a_tool_does_not_take_is_refused_with_both_names(
    filename: str, tool: FileTool, extension: str
) -> None:
    with pytest.raises(ApiError) as refused:
        check_attachable(file(filename), tool)

    assert refused.value.status == 400
    assert extension in refused.value.message
    assert tool in refused.value.message


def test_extensions_are_those_of_names() -> None:
    names = ["a.CSV", "a.tar.gz", "noext", ".bashrc", "a.", ""]

    assert [find_extension(name) for name in names] == [".csv", ".gz", "", "", ".", ""]


def test_every_row_has_a_media_type_for_downloads() -> None:
    types = {extension: find_media_type(f"a{extension}") for extension in list_supported()}

    assert "application/octet-stream" not in types.values()
    assert types[".csv"] == "text/csv"
    assert find_media_type("a.unknown") == "application/octet-stream"


def test_text_is_told_from_binary_files_by_name() -> None:
    texts = {extension for extension in list_supported() if holds_text(f"a{extension}")}

    assert {".csv", ".json", ".py", ".sh", ".ts", ".xml"} <= texts
    assert not texts & {".docx", ".pdf", ".png", ".xlsx", ".zip", ".doc", ".tar"}
    assert holds_text("a.yaml") and not holds_text("a.bin")


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (b"", "ascii"),
        (b"plain", "ascii"),
        ("grüße, 日本 😀".encode(), "utf-8"),
        ("\ufeffgrüße".encode(), "utf-8"),
        ("grüße".encode("utf-16"), "utf-16"),
        ("a,b,c\n1,2,3\n".encode("utf-16-le"), "utf-16"),
        ("a,b,c\n1,2,3\n".encode("utf-16-be"), "utf-16"),
        ("grüße".encode("latin-1"), "other"),
        ("日本語".encode("shift-jis"), "other"),
        ("€uro".encode("cp1252"), "other"),
        ("ü".encode()[:1], "other"),
        (b"x" * 100_000 + b"\xff", "other"),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_an_encoding_is_seen_in_pieces_of_any_size(
    content: bytes, encoding: str, size: int
) -> None:
    probe = EncodingProbe()
    for start in range(0, len(content), size):
        probe.feed(content[start : start + size])

    assert probe.encoding() == encoding
