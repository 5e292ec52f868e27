"""The tools for the files in a session's /mnt/data."""

import base64
import binascii
import fnmatch
from typing import Annotated, Literal

from langchain_core.tools import ArgsSchema
from pydantic import Field, SkipValidation

from ci_tools.errors import InvalidArgumentError
from ci_tools.models import File
from ci_tools.render import IMAGE_BYTES
from langchain_ci_tools.access import Action
from langchain_ci_tools.api import Put, SessionAPI
from langchain_ci_tools.content import (
    IMAGE_TYPES,
    Outcome,
    file_block,
    file_line,
    image_block,
    to_page,
)
from langchain_ci_tools.session_tool import NO_RUNTIME, Arguments, Runtime, SessionTool
from langchain_ci_tools.sessions import Found

_PAGE = 20_000
"""Bytes of a text file that are read at once if the model names no number."""

_PAGE_MAX = 100_000
"""Bytes of a text file that are read at once at most."""

_FILE_BYTES = 8_000_000
"""Bytes of the largest file that is given to a model as a file."""

_SCAN = 10_000
"""Files of a session that a filtered list looks at."""


class _UploadFile(Arguments):
    path: str = Field(description="Name in /mnt/data; an older file of that name is replaced.")
    content: str = Field(description="The whole content.")
    encoding: Literal["utf-8", "base64"] = "utf-8"
    runtime: Runtime = NO_RUNTIME


class UploadFileTool(SessionTool):
    """Write a file into the session; the artifact is the `File`."""

    name: str = "upload_file"
    description: str = "Write a text file, or a small binary one in base64, into /mnt/data."
    args_schema: Annotated[ArgsSchema | None, SkipValidation()] = _UploadFile

    def act(  # type: ignore[override]
        self, path: str, content: str, encoding: Literal["utf-8", "base64"] = "utf-8"
    ) -> Action[Outcome]:
        """Return what writes the file."""
        data = _decode(content, encoding)

        async def action(service: SessionAPI, found: Found, put: Put) -> Outcome:
            file = await service.upload_file(found.id, path, data)
            return Outcome(content=f"Written: {file_line(file)}.", artifact=file)

        return action


class _ListFiles(Arguments):
    pattern: str = Field(default="", description="Glob for names or paths, e.g. *.csv.")
    limit: int = Field(default=100, ge=1, le=1000)
    runtime: Runtime = NO_RUNTIME


class ListFilesTool(SessionTool):
    """List the session's files; the artifact is the list of each `File`."""

    name: str = "list_files"
    description: str = "List the files in /mnt/data with their sizes."
    args_schema: Annotated[ArgsSchema | None, SkipValidation()] = _ListFiles

    def act(self, pattern: str = "", limit: int = 100) -> Action[Outcome]:  # type: ignore[override]
        """Return what lists the files."""

        async def action(service: SessionAPI, found: Found, put: Put) -> Outcome:
            files = await service.list_files(found.id, limit=_SCAN if pattern else limit + 1)
            files = [file for file in files if _matches(file, pattern)]
            lines = [file_line(file) for file in files[:limit]]
            if len(files) > limit:
                lines.append("There are more: use a pattern or a higher limit.")
            text = "\n".join(lines) or "There are no such files."
            return Outcome(content=text, artifact=files[:limit])

        return action


class _ReadFile(Arguments):
    path: str = Field(description="Name in /mnt/data.")
    offset: int = Field(default=0, ge=0, description="First byte.")
    limit: int = Field(default=_PAGE, ge=1, le=_PAGE_MAX, description="Bytes.")
    runtime: Runtime = NO_RUNTIME


class ReadFileTool(SessionTool):
    """Read a file of the session; the artifact is the `File`."""

    name: str = "read_file"
    description: str = (
        "Read a text file in /mnt/data, or look at an image. Use run_code to analyse data."
    )
    args_schema: Annotated[ArgsSchema | None, SkipValidation()] = _ReadFile

    def act(self, path: str, offset: int = 0, limit: int = _PAGE) -> Action[Outcome]:  # type: ignore[override]
        """Return what reads the file."""

        async def action(service: SessionAPI, found: Found, put: Put) -> Outcome:
            file = await service.stat_file(found.id, path, digest=False)
            whole = self._find_whole_limit(file)
            if file.size <= whole:
                data = await _read(service, found, file, 0, file.size)
                is_image = file.media_type in IMAGE_TYPES
                block = image_block(file.media_type, data) if is_image else file_block(file, data)
                text = {"type": "text", "text": file_line(file)}
                return Outcome(content=[text, block], artifact=file)
            data = await _read(service, found, file, offset, limit)
            page = None if file.media_type in IMAGE_TYPES else to_page(data, offset)
            if page is None:
                text_only = f"{file_line(file)} is not shown: it is no text. Use run_code."
                return Outcome(content=text_only, artifact=file)
            start, text_of_page = page
            end = start + len(text_of_page.encode())
            line = f"{file.path}, bytes {start:,} to {end:,} of {file.size:,}"
            if start < end < file.size:
                line += f"; read on with offset={end}"
            return Outcome(content=f"{line}\n\n{text_of_page}", artifact=file)

        return action

    def _find_whole_limit(self, file: File) -> int:
        """Return how large a file may be to be given as it is, not as text; -1 if never."""
        if file.media_type in IMAGE_TYPES and self.images:
            return IMAGE_BYTES
        if file.media_type == "application/pdf" and self.files:
            return _FILE_BYTES
        return -1


def _decode(content: str, encoding: str) -> bytes:
    if encoding == "utf-8":
        return content.encode(errors="replace")
    try:
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidArgumentError(
            "content is not valid base64. Encode the bytes again, unbroken."
        ) from error


def _matches(file: File, pattern: str) -> bool:
    name = file.path.rpartition("/")[2]
    return not pattern or fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(file.path, pattern)


async def _read(service: SessionAPI, found: Found, file: File, offset: int, length: int) -> bytes:
    async with service.open_file(found.id, file.path, offset=offset, length=length) as chunks:
        return b"".join([chunk async for chunk in chunks])
