"""Messages between the server and what it started: one JSON object and file descriptors each.

The sockets are `SOCK_SEQPACKET`: a message is one packet, and its end is the other side's end.
"""

import array
import json
import os
import socket
from collections.abc import Sequence
from typing import Any

LARGEST_MESSAGE = 128 * 1024
"""Bytes; a larger packet is a mistake."""

SECRETS = ("env", "connection")
"""What of a kernel's description only its own process is told: others are forked from a template
that would still have it in its memory."""

MOST_DESCRIPTORS = 16
"""File descriptors that may travel with one message."""


def send(link: socket.socket, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
    """Send one message; the descriptors are duplicated for the other side."""
    packet = json.dumps(message).encode()
    if len(packet) > LARGEST_MESSAGE:
        raise ValueError(f"A message of {len(packet)} bytes is too large to send.")
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    link.sendmsg([packet], rights)


def receive(link: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Wait for one message and its descriptors; None when the other side is gone."""
    space = socket.CMSG_SPACE(MOST_DESCRIPTORS * array.array("i").itemsize)
    try:
        packet, ancillary, _, _ = link.recvmsg(LARGEST_MESSAGE, space, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        return None
    fds = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    if not packet:
        for fd in fds:
            os.close(fd)
        return None
    message = json.loads(packet)
    if not isinstance(message, dict):
        raise ValueError("A message must be a JSON object.")
    return message, list(fds)
