"""Messages of the Jupyter protocol as WebSocket frames; pure, without I/O.

Frames follow the subprotocol `v1.kernel.websocket.jupyter.org`, or, for servers that do not know
it (Enterprise Gateway 3), the older JSON frames:
https://jupyter-server.readthedocs.io/en/latest/developers/websocket-protocols.html
Messages: https://jupyter-client.readthedocs.io/en/stable/messaging.html
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeAlias

SUBPROTOCOL = "v1.kernel.websocket.jupyter.org"

_PROTOCOL_VERSION = "5.3"

_FIXED_PARTS = 5
"""Parts before the buffers: channel, header, parent header, metadata, content."""

JsonObject: TypeAlias = dict[str, Any]


class FrameError(ValueError):
    """Bytes that are no frame of the protocol."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A message to a kernel."""

    channel: str
    id: str
    type: str
    sender: str
    content: Mapping[str, Any] = field(default_factory=dict)
    buffers: tuple[bytes, ...] = ()

    @property
    def header(self) -> JsonObject:
        """The message's header."""
        return {
            "msg_id": self.id,
            "msg_type": self.type,
            "session": self.sender,
            "username": "ci-tools",
            "date": datetime.now(UTC).isoformat(),
            "version": _PROTOCOL_VERSION,
        }


@dataclass(frozen=True, kw_only=True)
class Message:
    """A message from a kernel, or from its server in the kernel's name."""

    channel: str
    type: str
    sender: str
    """Names the kernel's process: a restarted kernel has another one."""

    sent_at: str
    """ISO 8601, by the kernel's clock."""

    parent_id: str
    """The id of the request that it belongs to; empty if to none."""

    content: JsonObject
    buffers: tuple[bytes, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A message of which only `channel` and `parent_id` are decoded yet."""

    channel: str
    parent_id: str
    header: bytes | JsonObject
    content: bytes | JsonObject
    buffers: tuple[bytes, ...] = ()

    def to_message(self) -> Message:
        """Decode the rest.

        Raises:
            FrameError: A part is no JSON object.
        """
        header = _to_object(self.header)
        return Message(
            channel=self.channel,
            type=str(header.get("msg_type", "")),
            sender=str(header.get("session", "")),
            sent_at=str(header.get("date", "")),
            parent_id=self.parent_id,
            content=_to_object(self.content),
            buffers=self.buffers,
        )


def to_execute_request(
    code: str,
    *,
    id: str,
    sender: str,
    expressions: Mapping[str, str] | None = None,
    silent: bool = False,
) -> Request:
    """Return a request to run code, and to evaluate expressions after it."""
    content = {
        "code": code,
        "silent": silent,
        "store_history": not silent,
        "user_expressions": dict(expressions or {}),
        "allow_stdin": False,
        # We queue executions ourselves; the kernel would abort the next one that comes soon after
        # an error or an interrupt, and that looks like an empty success.
        "stop_on_error": False,
    }
    return Request(channel="shell", id=id, type="execute_request", sender=sender, content=content)


def decode(data: bytes | str, subprotocol: str | None) -> Frame:
    """Decode a frame of the subprotocol, or of none.

    Raises:
        FrameError: It is no such frame.
    """
    if subprotocol == SUBPROTOCOL and isinstance(data, bytes):
        return decode_frame(data)
    return decode_json_frame(data)


def encode(request: Request, subprotocol: str | None) -> bytes | str:
    """Encode a request for the subprotocol, or for none."""
    return encode_frame(request) if subprotocol == SUBPROTOCOL else encode_json_frame(request)


def decode_frame(data: bytes) -> Frame:
    """Split a binary frame into its parts and decode only which request it belongs to.

    Raises:
        FrameError: It is no such frame.
    """
    try:
        (count,) = struct.unpack_from("<Q", data)
        if not _FIXED_PARTS < count <= len(data) // 8:
            raise FrameError(f"a frame with {count} offsets")
        offsets = struct.unpack_from(f"<{count}Q", data, 8)
        channel = data[offsets[0] : offsets[1]].decode()
    except (struct.error, UnicodeDecodeError) as exc:
        raise FrameError("a frame without offsets or channel") from exc
    parts = [data[start:end] for start, end in zip(offsets[1:-1], offsets[2:], strict=True)]
    header, parent, _, content, *buffers = parts
    return Frame(
        channel=channel,
        parent_id=_to_parent_id(_to_object(parent)),
        header=header,
        content=content,
        buffers=tuple(buffers),
    )


def encode_frame(request: Request) -> bytes:
    """Encode a request as a binary frame."""
    parts = [
        request.channel.encode(),
        _to_json(request.header),
        b"{}",
        b"{}",
        _to_json(request.content),
        *request.buffers,
    ]
    offsets = [8 * (len(parts) + 2)]
    for part in parts:
        offsets.append(offsets[-1] + len(part))
    head = struct.pack(f"<{len(offsets) + 1}Q", len(offsets), *offsets)
    return b"".join((head, *parts))


def decode_json_frame(data: bytes | str) -> Frame:
    """Decode a frame of the older protocol: JSON text, or JSON and buffers as bytes.

    Raises:
        FrameError: It is no such frame.
    """
    text: bytes | str = data
    buffers: tuple[bytes, ...] = ()
    if isinstance(data, bytes):
        try:
            (count,) = struct.unpack_from("!I", data)
            offsets = [*struct.unpack_from(f"!{count}I", data, 4), len(data)]
        except struct.error as exc:
            raise FrameError("a frame without offsets") from exc
        parts = [data[start:end] for start, end in zip(offsets[:-1], offsets[1:], strict=True)]
        if not parts:
            raise FrameError("a frame without parts")
        text, *rest = parts
        buffers = tuple(rest)
    found = _to_object(text)
    parent = found.get("parent_header")
    return Frame(
        channel=str(found.get("channel", "")),
        parent_id=_to_parent_id(parent if isinstance(parent, dict) else {}),
        header=_to_object(found.get("header")),
        content=_to_object(found.get("content")),
        buffers=buffers,
    )


def encode_json_frame(request: Request) -> bytes | str:
    """Encode a request as a frame of the older protocol."""
    message = {
        "channel": request.channel,
        "header": request.header,
        "parent_header": {},
        "metadata": {},
        "content": request.content,
    }
    if not request.buffers:
        return _to_json(message).decode("ascii")
    parts = [_to_json(message), *request.buffers]
    offsets = [4 * (len(parts) + 1)]
    for part in parts[:-1]:
        offsets.append(offsets[-1] + len(part))
    return struct.pack(f"!{len(offsets) + 1}I", len(parts), *offsets) + b"".join(parts)


def _to_json(value: Mapping[str, Any]) -> bytes:
    # Escaped, because code may hold lone surrogates, which UTF-8 cannot.
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def _to_object(part: Any) -> JsonObject:
    value = part
    if isinstance(part, bytes | str):
        try:
            value = json.loads(part)
        except (ValueError, RecursionError) as exc:
            raise FrameError("a part that is no JSON") from exc
    if not isinstance(value, dict):
        raise FrameError("a part that is no JSON object")
    return value


def _to_parent_id(parent: JsonObject) -> str:
    return str(parent.get("msg_id", ""))
