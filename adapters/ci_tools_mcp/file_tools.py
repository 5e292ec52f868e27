"""The tools for the files of a session."""

import base64
import binascii
import fnmatch
from typing import Annotated, Any, Literal

from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import CallToolResult, ContentBlock, ImageContent, ResourceLink, TextContent
from pydantic import Field

from ci_tools import File, SessionService
from ci_tools.render import IMAGE_BYTES
from ci_tools_mcp.access import Call
from ci_tools_mcp.failures import tool_errors
from ci_tools_mcp.times import to_time
from ci_tools_mcp.uris import file_uri
from ci_tools_mcp.versions import notify_changed, takes_resource_links

PAGE = 20_000
"""Bytes of a text file that are read if the caller names no number."""

_PAGE_MAX = 100_000
"""Bytes of a text file that are read at most."""

_OLD_OFFICE_MAGIC = bytes.fromhex("d0cf11e0a1b11ae1")
"""How files of Microsoft Office up to 2003 begin (Compound File Binary)."""

_OLD_OFFICE = {"doc": "Word", "xls": "Excel", "ppt": "PowerPoint"}

_SCAN = 10_000
"""Files of a session that a filtered list looks at."""

_IMAGES = ("image/png", "image/jpeg", "image/gif", "image/webp")
"""What models can look at."""


async def upload_file(
    context: Call,
    path: Annotated[str, Field(description="Name in /mnt/data; replaces an older file.")],
    content: str = "",
    encoding: Literal["utf-8", "base64"] = "utf-8",
    ticket: Annotated[
        bool, Field(description="No content: get a URL to PUT a large file to (HTTP servers).")
    ] = False,
    session_id: str | None = None,
) -> dict[str, Any]:
    """Write a file into a session; over HTTP, content of at most 12 MB."""
    if ticket and content:
        raise ToolError("Give content or ticket, not both: a ticket's content is sent to its URL.")
    access = context.request_context.lifespan_context
    service = await access.service()
    with tool_errors():
        if session_id or access.default_key(context):
            session = await access.find_session(context, service, session_id)
        else:
            session = await service.create_session()
        if ticket:
            url = await _ticket(context, session.id, path, "upload")
            seconds = service.settings.ticket_time
            return {"session_id": session.id, "put_url": url, "valid_s": seconds}
        data = _decode(content, encoding)
        file = await service.upload_file(session.id, path, data)
    await notify_changed(context, [file_uri(session.id, file.path)])
    advice = _advise(file, data)
    return {
        "session_id": session.id,
        **_to_dict(session.id, file),
        "sha256": file.sha256,
        **({"advice": advice} if advice else {}),
    }


async def list_files(
    context: Call,
    session_id: str | None = None,
    path: Annotated[str, Field(description="Folder.")] = "",
    pattern: Annotated[str, Field(description="Glob, e.g. *.csv.")] = "",
    limit: Annotated[int, Field(ge=1, le=1000)] = 100,
) -> dict[str, Any]:
    """List the files in a session's /mnt/data."""
    access = context.request_context.lifespan_context
    service = await access.service()
    with tool_errors():
        session = await access.find_session(context, service, session_id)
        files = await service.list_files(session.id, limit=_SCAN)
    folder = path.removeprefix("sandbox:").removeprefix("/mnt/data").strip("/")
    found = [file for file in files if _matches(file, folder, pattern)]
    listed = [_to_dict(session.id, file) for file in found[:limit]]
    more = {"omitted": len(found) - limit} if len(found) > limit else {}
    return {"session_id": session.id, "files": listed, **more}


async def read_file(
    context: Call,
    path: str,
    session_id: str | None = None,
    offset: Annotated[int, Field(ge=0, description="First byte.")] = 0,
    limit: Annotated[int, Field(ge=1, le=_PAGE_MAX, description="Bytes.")] = PAGE,
) -> CallToolResult:
    """Read a text file, or look at an image; other files get a link. Use run_code for more."""
    access = context.request_context.lifespan_context
    service = await access.service()
    with tool_errors():
        session = await access.find_session(context, service, session_id)
        file = await service.stat_file(session.id, path, digest=False)
        if file.media_type in _IMAGES and file.size <= IMAGE_BYTES:
            data = await _read(service, session.id, file, 0, file.size)
            return _image(session.id, file, data)
        page, data = None, b""
        if file.media_type not in _IMAGES:
            data = await _read(service, session.id, file, offset, limit)
            page = _to_text(data, offset)
        if page is None:
            return await _link(context, session.id, file, advice=_advise(file, data))
    offset, text = page
    end = offset + len(text.encode())
    line = f"session_id: {session.id} | {file.path}, bytes {offset:,} to {end:,} of {file.size:,}"
    if end < file.size and end > offset:
        line += f" | read on with offset={end}"
    return CallToolResult(content=[TextContent(type="text", text=f"{line}\n\n{text}")])


def _decode(content: str, encoding: str) -> bytes:
    if encoding == "utf-8":
        return content.encode(errors="replace")
    try:
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise ToolError("content is not valid base64. Encode the bytes again, unbroken.") from exc


def _matches(file: File, folder: str, pattern: str) -> bool:
    if folder and not file.path.startswith(folder + "/"):
        return False
    name = file.path.rpartition("/")[2]
    return not pattern or fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(file.path, pattern)


def _to_dict(session_id: str, file: File) -> dict[str, Any]:
    return {
        "path": file.path,
        "size": file.size,
        "modified_at": to_time(file.modified_at),
        "mime_type": file.media_type,
        "uri": file_uri(session_id, file.path),
    }


async def _read(
    service: SessionService, session_id: str, file: File, offset: int, length: int
) -> bytes:
    chunks = []
    async with service.open_file(session_id, file.path, offset=offset, length=length) as stream:
        async for chunk in stream:
            chunks.append(chunk)
    return b"".join(chunks)


def _to_text(data: bytes, offset: int) -> tuple[int, str] | None:
    """Return where a slice of a text file starts, and the slice; None if it is binary.

    Characters that are cut at its ends are left out.
    """
    if b"\0" in data:
        return None
    start = 0
    while offset and start < min(3, len(data)) and data[start] & 0xC0 == 0x80:
        start += 1
    for end in range(len(data), max(start, len(data) - 4), -1):
        try:
            return offset + start, data[start:end].decode()
        except UnicodeDecodeError:
            continue
    return None if data else (offset, "")


def _image(session_id: str, file: File, data: bytes) -> CallToolResult:
    line = f"session_id: {session_id} | {file.path}, {file.media_type}, {file.size:,} bytes"
    image = ImageContent(
        type="image", data=base64.b64encode(data).decode("ascii"), mime_type=file.media_type
    )
    return CallToolResult(content=[TextContent(type="text", text=line), image])


async def _link(context: Call, session_id: str, file: File, *, advice: str) -> CallToolResult:
    """Name a file that cannot be shown, and how to get at it."""
    access = context.request_context.lifespan_context
    lines = [
        f"session_id: {session_id} | {file.path}, {file.media_type}, {file.size:,} bytes: not "
        f"shown, for it is not text or too large. {advice or 'Look into it with run_code.'}",
    ]
    if access.options.public_url is not None:
        url = await _ticket(context, session_id, file.path, "download")
        lines.append(f"To download it: {url}")
    content: list[ContentBlock] = [TextContent(type="text", text="\n".join(lines))]
    if access.options.resource_links and takes_resource_links(context):
        link = ResourceLink(
            type="resource_link",
            uri=file_uri(session_id, file.path),
            name=file.path,
            mime_type=file.media_type,
            size=file.size,
        )
        content.append(link)
    return CallToolResult(content=content)


def _advise(file: File, head: bytes) -> str:
    """Say what to do with an Office file that no library here reads; empty for other files."""
    suffix = file.path.rpartition(".")[2].lower()
    if suffix not in _OLD_OFFICE or not head.startswith(_OLD_OFFICE_MAGIC):
        return ""
    return (
        f"It is in the format of {_OLD_OFFICE[suffix]} up to 2003, which Python libraries do not"
        f" read. Ask the user to save it as .{suffix}x (in {_OLD_OFFICE[suffix]} or LibreOffice, or"
        f" by `soffice --headless --convert-to {suffix}x {file.path}`) and to upload that."
    )


async def _ticket(
    context: Call, session_id: str, path: str, action: Literal["upload", "download"]
) -> str:
    access = context.request_context.lifespan_context
    service = await access.service()
    if access.options.public_url is None:
        limit = service.settings.file_limit
        raise ToolError(
            "This server has no HTTP face, so it has no tickets. Send the file as content "
            f"(at most {limit:,} bytes), fetch or write it with run_code, or ask the user to "
            "run `ci-tools serve`, whose tickets take large files."
        )
    _, secret = await service.create_ticket(session_id, path, action)
    return f"{access.options.public_url}/tickets/{secret}"
