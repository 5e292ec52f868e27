from typing import Any

import anyio
import pytest

from ci_tools.errors import KernelDiedError
from ci_tools.kernel import (
    ClearOutput,
    DisplayUpdate,
    ExecutionDone,
    FileStat,
    KernelEvent,
    OutputLost,
)
from ci_tools.models import DisplayOutput, ErrorOutput, StreamOutput
from ci_tools_jupyter.events import FILES_MEDIA_TYPE, to_digests, to_done, to_event
from ci_tools_jupyter.exchange import JupyterExecution
from ci_tools_jupyter.wire import Message

DATA_NOTICE = (
    "IOPub data rate exceeded.\nThe Jupyter server will temporarily stop sending output\n"
    "to the client in order to avoid crashing it.\n"
)


def message(type: str, content: dict[str, Any], *, channel: str = "iopub") -> Message:
    return Message(
        channel=channel, type=type, sender="kernel", sent_at="", parent_id="step", content=content
    )


def status(state: str) -> Message:
    return message("status", {"execution_state": state})


def reply(**content: Any) -> Message:
    return message(
        "execute_reply", {"status": "ok", "execution_count": 3} | content, channel="shell"
    )


async def take_all(execution: JupyterExecution) -> list[KernelEvent]:
    events: list[KernelEvent] = []
    with anyio.fail_after(5):
        while not events or not isinstance(events[-1], ExecutionDone):
            events.append(await execution.receive())
    return events


@pytest.mark.parametrize(
    ("type", "content", "event"),
    [
        ("stream", {"name": "stdout", "text": "a"}, StreamOutput(name="stdout", text="a")),
        ("stream", {"name": "stderr", "text": "a"}, StreamOutput(name="stderr", text="a")),
        ("stream", {"name": "stdout", "text": ""}, None),
        (
            "display_data",
            {"data": {"a/b": "c"}, "metadata": {"d": 1}, "transient": {"display_id": "e"}},
            DisplayOutput(kind="display", data={"a/b": "c"}, metadata={"d": 1}, display_id="e"),
        ),
        (
            "execute_result",
            {"data": {"a/b": "c"}, "metadata": {}, "execution_count": 4},
            DisplayOutput(kind="result", data={"a/b": "c"}, execution_count=4),
        ),
        (
            "update_display_data",
            {"data": {"a/b": "c"}, "metadata": {}, "transient": {"display_id": "e"}},
            DisplayUpdate(display_id="e", data={"a/b": "c"}),
        ),
        ("update_display_data", {"data": {"a/b": "c"}}, None),
        ("clear_output", {"wait": True}, ClearOutput(wait=True)),
        (
            "error",
            {"ename": "E", "evalue": "v", "traceback": ["a", "b"]},
            ErrorOutput(name="E", message="v", traceback="a\nb"),
        ),
        ("execute_input", {"code": "1"}, None),
        ("comm_open", {}, None),
        ("something_new", {}, None),
    ],
)
def test_a_message_becomes_an_event(
    type: str, content: dict[str, Any], event: KernelEvent | None
) -> None:
    assert to_event(message(type, content)) == event


@pytest.mark.parametrize("notice", [DATA_NOTICE, DATA_NOTICE.replace("data", "message", 1)])
def test_the_notice_of_a_rate_limit_means_lost_output(notice: str) -> None:
    event = to_event(message("stream", {"name": "stderr", "text": notice}))

    assert isinstance(event, OutputLost)


@pytest.mark.parametrize(
    ("name", "text"), [("stdout", DATA_NOTICE), ("stderr", "IOPub data rate exceeded")]
)
def test_similar_text_of_the_code_is_text(name: str, text: str) -> None:
    event = to_event(message("stream", {"name": name, "text": text}))

    assert isinstance(event, StreamOutput)


def test_a_reply_carries_the_files() -> None:
    listing = {
        "root": "/r",
        "files": [["a", 1, 2.5], ["b/c", 3, 4]],
        "digests": {"b/c": [3, 4, "abc"], "d": "x"},
    }
    found = {"files": {"status": "ok", "data": {FILES_MEDIA_TYPE: listing}}}
    content = {"status": "ok", "user_expressions": found}

    assert to_done(content).files == (
        FileStat(path="a", size=1, modified_at=2.5),
        FileStat(path="b/c", size=3, modified_at=4.0),
    )
    assert to_digests(content) == {FileStat(path="/r/b/c", size=3, modified_at=4.0): "abc"}


@pytest.mark.parametrize("rows", [None, "x", 1, [1], [["a"]], [["a", "1", 2]], [[1, 1, 1]]])
def test_a_listing_that_is_none_is_no_listing(rows: Any) -> None:
    for listing in (rows, {"root": "/r", "files": rows, "digests": rows}):
        found = {"files": {"status": "ok", "data": {FILES_MEDIA_TYPE: listing}}}

        assert to_done({"status": "ok", "user_expressions": found}).files is None
        assert to_digests({"user_expressions": found}) == {}


@pytest.mark.parametrize("reply_first", [True, False])
async def test_an_execution_ends_with_reply_and_idle(reply_first: bool) -> None:
    execution = JupyterExecution("step")
    execution.take(status("busy"))
    execution.take(message("stream", {"name": "stdout", "text": "a"}))
    for last in (reply(), status("idle")) if reply_first else (status("idle"), reply()):
        assert not execution.done
        execution.take(last)

    assert await take_all(execution) == [
        StreamOutput(name="stdout", text="a"),
        ExecutionDone(status="ok", execution_count=3),
    ]


@pytest.mark.parametrize(("sent", "status_"), [("aborted", "aborted"), ("abort", "aborted")])
async def test_an_aborted_execution_says_so(sent: str, status_: str) -> None:
    execution = JupyterExecution("step")
    execution.take(reply(status=sent))
    execution.take(status("idle"))

    (done,) = await take_all(execution)

    assert isinstance(done, ExecutionDone)
    assert done.status == status_


async def test_help_and_errors_that_only_the_reply_has_are_output() -> None:
    execution = JupyterExecution("step")
    page = {"source": "page", "data": {"text/plain": "help"}, "start": 0}
    execution.take(reply(status="error", ename="E", evalue="v", traceback=[], payload=[page]))
    execution.take(status("idle"))

    assert (await take_all(execution))[:2] == [
        DisplayOutput(kind="display", data={"text/plain": "help"}),
        ErrorOutput(name="E", message="v", traceback=""),
    ]


async def test_an_error_is_told_once() -> None:
    execution = JupyterExecution("step")
    execution.take(message("error", {"ename": "E", "evalue": "v", "traceback": []}))
    execution.take(reply(status="error", ename="E", evalue="v", traceback=[]))
    execution.take(status("idle"))

    events = await take_all(execution)

    assert sum(isinstance(event, ErrorOutput) for event in events) == 1


async def test_an_execution_without_a_reply_ends_as_unknown() -> None:
    execution = JupyterExecution("step")
    execution.take(status("idle"))
    execution.settle_reply()

    assert await take_all(execution) == [ExecutionDone(status="unknown")]


@pytest.mark.parametrize("settled_first", [True, False])
async def test_an_execution_whose_idle_was_lost_ends_with_its_reply(settled_first: bool) -> None:
    execution = JupyterExecution("step")
    if settled_first:
        execution.settle_outputs()
        execution.take(reply())
    else:
        execution.take(reply())
        execution.settle_outputs()
    execution.settle_reply()

    assert await take_all(execution) == [ExecutionDone(status="ok", execution_count=3)]


async def test_what_came_before_a_failure_is_received_first() -> None:
    execution = JupyterExecution("step")
    execution.take(message("stream", {"name": "stdout", "text": "a"}))
    execution.fail(KernelDiedError("gone"))

    assert await execution.receive() == StreamOutput(name="stdout", text="a")
    for _ in range(2):
        with pytest.raises(KernelDiedError):
            await execution.receive()
