import json
import struct
from typing import Any

import pytest
from jupyter_server.services.kernels.connection import base

from ci_tools_jupyter.wire import (
    SUBPROTOCOL,
    FrameError,
    Request,
    decode,
    decode_frame,
    decode_json_frame,
    encode,
    encode_frame,
    to_execute_request,
)

SERVER: Any = base
"""What a Jupyter Server itself does with frames; it has no types."""

PARTS = [
    b'{"msg_id":"m","msg_type":"stream","session":"kernel","date":"2026-11-20T10:00:00Z"}',
    b'{"msg_id":"parent"}',
    b"{}",
    '{"name":"stdout","text":"é"}'.encode(),
    b"\0\1raw",
    b"",
]


def test_a_frame_of_the_server_is_understood() -> None:
    frame = decode_frame(SERVER.serialize_msg_to_ws_v1(PARTS, "iopub"))
    message = frame.to_message()

    assert (frame.channel, frame.parent_id) == ("iopub", "parent")
    assert message.type == "stream"
    assert message.sender == "kernel"
    assert message.sent_at == "2026-11-20T10:00:00Z"
    assert message.content == {"name": "stdout", "text": "é"}
    assert message.buffers == (b"\0\1raw", b"")


def test_the_server_understands_our_frame() -> None:
    request = Request(
        channel="shell",
        id="m",
        type="comm_msg",
        sender="me",
        content={"a": "\ud800"},
        buffers=(b"one", b"two"),
    )

    channel, parts = SERVER.deserialize_msg_from_ws_v1(encode_frame(request))

    assert channel == "shell"
    assert json.loads(parts[0])["msg_id"] == "m"
    assert json.loads(parts[1]) == json.loads(parts[2]) == {}
    assert json.loads(parts[3]) == {"a": "\ud800"}
    assert parts[4:] == [b"one", b"two"]


def test_the_older_protocol_goes_both_ways() -> None:
    plain = Request(channel="shell", id="m", type="x_request", sender="me", content={"a": 1})
    binary = Request(channel="shell", id="m", type="x", sender="me", buffers=(b"one", b"two"))
    message = {
        "channel": "iopub",
        "header": {"msg_type": "stream", "session": "kernel"},
        "parent_header": {"msg_id": "parent"},
        "metadata": {},
        "content": {"text": "x"},
    }

    text = encode(plain, None)
    data = encode(binary, None)

    assert json.loads(text)["content"] == {"a": 1}
    assert isinstance(data, bytes)
    assert SERVER.deserialize_binary_message(data)["buffers"] == [b"one", b"two"]
    assert decode_json_frame(json.dumps(message)).parent_id == "parent"
    received = decode(SERVER.serialize_binary_message(message | {"buffers": [b"raw"]}), None)
    assert received.to_message().content == {"text": "x"}
    assert received.buffers == (b"raw",)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 7,
        struct.pack("<Q", 3) + b"\0" * 24,
        struct.pack("<Q", 1 << 60) + b"\0" * 100,
        SERVER.serialize_msg_to_ws_v1([b"{}", b"not json", b"{}", b"{}"], "iopub"),
        SERVER.serialize_msg_to_ws_v1([b"{}", b"[]", b"{}", b"{}"], "iopub"),
    ],
)
def test_bytes_that_are_no_frame_are_refused(data: bytes) -> None:
    with pytest.raises(FrameError):
        decode(data, SUBPROTOCOL)


@pytest.mark.parametrize("data", ["", "[]", '{"header": 1}', b"\0", b"\0\0\0\0", b"\xff" * 8])
def test_text_that_is_no_frame_is_refused(data: bytes | str) -> None:
    with pytest.raises(FrameError):
        decode(data, None)


def test_an_execute_request_queues_nothing_and_asks_nobody() -> None:
    request = to_execute_request("1", id="step", sender="me", expressions={"a": "b"})

    assert request.id == "step"
    assert request.content["allow_stdin"] is False
    assert request.content["stop_on_error"] is False
    assert request.content["user_expressions"] == {"a": "b"}
