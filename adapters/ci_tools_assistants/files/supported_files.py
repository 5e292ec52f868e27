"""Which files which tool takes: the union of the tables that the hosted API's guides printed.

The rows are in `supported_files.csv`. Any file can be uploaded; it is attaching one to a tool that
asks for a known extension.
"""

import csv
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal, TypeAlias

from ci_tools_assistants.errors import unsupported_extension
from ci_tools_assistants.objects import Object

FileTool: TypeAlias = Literal["code_interpreter", "file_search"]
"""The tools that take files; `retrieval` of version 1 is `file_search`."""

_OTHER_TEXT = frozenset(
    "bat cfg conf dat ini ipynb jsonl log lua pl r rst sql svg toml tsv yaml yml".split()
)
"""Extensions of text that no tool lists but that are uploaded all the same."""

_DISPLAYED_TYPES = {
    "csv": "text/csv",
    "json": "application/json",
    "md": "text/markdown",
    "xml": "application/xml",
    "ts": "application/typescript",
    "cs": "text/x-csharp",
}
"""What the table or the standard library has another name for than programs expect."""


@dataclass(frozen=True, kw_only=True)
class SupportedFile:
    """A row of the table."""

    extension: str
    """With its dot, in small letters."""

    mime_types: tuple[str, ...]
    tools: tuple[FileTool, ...]

    @property
    def holds_text(self) -> bool:
        """Whether the file itself is text, whose encoding matters."""
        return all(
            mime_type.startswith("text/") or mime_type in _TEXT_TYPES
            for mime_type in self.mime_types
        )


_TEXT_TYPES = frozenset(
    f"application/{name}" for name in ("csv", "json", "typescript", "x-sh", "xml")
)


@cache
def list_supported() -> Mapping[str, SupportedFile]:
    """Return the table by extension."""
    text = files("ci_tools_assistants.files").joinpath("supported_files.csv").read_text("utf-8")
    rows = csv.DictReader(text.splitlines())
    return {row["extension"]: _to_row(row) for row in rows}


def _to_row(row: Mapping[str, str]) -> SupportedFile:
    names: tuple[FileTool, ...] = ("code_interpreter", "file_search")
    return SupportedFile(
        extension=row["extension"],
        mime_types=tuple(row["mime_types"].split()),
        tools=tuple(name for name in names if row[name] == "yes"),
    )


def check_attachable(file: Object, tool: FileTool) -> None:
    """Refuse to attach a file (a wire object) to a tool that does not take its kind.

    Raises:
        ApiError: 400, with the extension and the tool.
    """
    filename = str(file["filename"])
    row = list_supported().get(find_extension(filename))
    if row is None or tool not in row.tools:
        known = [item.extension for item in list_supported().values() if tool in item.tools]
        raise unsupported_extension(filename, tool, known)


def find_extension(filename: str) -> str:
    """Return a file name's extension with its dot, in small letters; empty if it has none."""
    stem, dot, extension = filename.rpartition(".")
    return f".{extension.lower()}" if dot and stem else ""


def holds_text(filename: str) -> bool:
    """Tell whether a file of that name is text, so that its encoding matters."""
    extension = find_extension(filename)
    row = list_supported().get(extension)
    return row.holds_text if row is not None else extension[1:] in _OTHER_TEXT


def find_media_type(filename: str) -> str:
    """Return the media type that a download of a file of that name has."""
    extension = find_extension(filename)
    if extension[1:] in _DISPLAYED_TYPES:
        return _DISPLAYED_TYPES[extension[1:]]
    row = list_supported().get(extension)
    if row is not None:
        return row.mime_types[0]
    # Without the machine's own tables: the answer must not depend on where the service runs.
    return _TYPES.types_map[1].get(extension, "application/octet-stream")


_TYPES = mimetypes.MimeTypes()
