"""Files in messages: found in the shapes that LangChain and the providers give them."""

import base64
import binascii
import mimetypes
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Kind: TypeAlias = Literal["file", "image", "audio", "video"]

_KINDS: dict[str, Kind] = {
    "file": "file",
    "input_file": "file",
    "document": "file",
    "image": "image",
    "image_url": "image",
    "input_image": "image",
    "audio": "audio",
    "input_audio": "audio",
    "video": "video",
}
"""The types of content blocks that are files."""

_INNER = ("file", "source", "image_url", "input_audio")
"""Keys of blocks that hold the file's own mapping."""

_DATA_URL = re.compile(r"\Adata:([\w.+-]+/[\w.+-]+)?(?:;[\w=.-]+)*;base64,")

_BAD = re.compile(r"[\x00-\x1f\x7f<>:\"\\|?*]")
"""Characters that some system refuses in names."""


@dataclass(frozen=True, kw_only=True)
class Attachment:
    """A file in a message: its bytes, or the id of an upload."""

    index: int
    """Which content block it is."""

    kind: Kind
    name: str
    is_named: bool = True
    """Whether the name came with the file; one that did not may be another file's too."""

    data: bytes | None = None
    file_id: str | None = None


def find_attachments(content: object) -> list[Attachment]:
    """Return the files in a message's content; neither mere URLs nor what cannot be decoded."""
    found: list[Attachment] = []
    if not isinstance(content, Sequence) or isinstance(content, str):
        return found
    for index, block in enumerate(content):
        if isinstance(block, Mapping) and block.get("type") in _KINDS:
            attachment = _to_attachment(index, block, {one.name for one in found})
            if attachment is not None:
                found.append(attachment)
    return found


def _to_attachment(index: int, block: Mapping[str, Any], taken: set[str]) -> Attachment | None:
    kind = _KINDS[block["type"]]
    # Chat Completions and Anthropic nest what others have in the block itself.
    inner = next((value for key in _INNER if isinstance(value := block.get(key), Mapping)), block)
    keys = ("file_id", "id") if block.get("source_type") == "id" else ("file_id",)
    file_id = _first_text((inner, block), keys)
    text = _first_text((inner, block), ("base64", "file_data", "data", "url", "image_url"))
    data, media_type = _decode(text)
    if data is None and file_id is None:
        return None
    media_type = _first_text((inner, block), ("mime_type", "media_type")) or media_type
    name = _find_name(block, inner)
    return Attachment(
        index=index,
        kind=kind,
        name=to_unused(name, taken) if name else _make_name(kind, media_type),
        is_named=name is not None,
        data=data,
        file_id=None if data is not None else file_id,
    )


def _first_text(places: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> str | None:
    for place in places:
        for key in keys:
            value = place.get(key)
            if isinstance(value, str) and value:
                return value
    return None


def _decode(text: str | None) -> tuple[bytes | None, str | None]:
    """Return the bytes in base64 or a data URL, and the media type that the latter names."""
    if text is None:
        return None, None
    url = _DATA_URL.match(text)
    if url is None and "://" in text[:20]:
        return None, None
    try:
        return base64.b64decode(text[url.end() :] if url else text, validate=True), url and url[1]
    except (binascii.Error, ValueError):
        return None, None


def _find_name(*places: Mapping[str, Any]) -> str | None:
    inner = [
        value
        for place in places
        for key in ("extras", "metadata")
        if isinstance(value := place.get(key), Mapping)
    ]
    name = _first_text([*places, *inner], ("filename", "name", "title"))
    if name is None:
        return None
    name = _BAD.sub("_", name.replace("\\", "/").rpartition("/")[2]).strip(" .")
    return name[-150:] or None


def _make_name(kind: Kind, media_type: str | None) -> str:
    return kind + (mimetypes.guess_extension(media_type or "") or "")


def to_unused(name: str, taken: Collection[str]) -> str:
    """Return the name, numbered if another file has it."""
    stem, dot, suffix = name.rpartition(".")
    if not dot:
        stem, suffix = name, ""
    number, candidate = 1, name
    while candidate in taken:
        number += 1
        candidate = f"{stem}-{number}{dot}{suffix}"
    return candidate
