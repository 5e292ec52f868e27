import dataclasses
import json
from typing import Any

import pytest

from ci_tools import errors
from ci_tools.errors import CIToolsError, FileTooLargeError, LimitError, NotFoundError
from ci_tools.models import (
    ChangedFile,
    CommandDone,
    CommandEvent,
    CommandOutput,
    CommandResult,
    DisplayOutput,
    ErrorOutput,
    File,
    FullText,
    KernelRef,
    KernelSpec,
    Restarted,
    RunStep,
    Session,
    StepDisplayUpdated,
    StepError,
    StepEvent,
    StepFinished,
    StepOutput,
    StepOutputCleared,
    StepQueued,
    StepStarted,
    StepStatus,
    StreamOutput,
    Variable,
)
from ci_tools.wire import (
    command_event_from_item,
    command_event_to_item,
    command_result_from_item,
    command_result_to_item,
    error_from_item,
    error_to_item,
    event_from_item,
    event_to_item,
    file_from_item,
    file_to_item,
    kernelspec_from_item,
    kernelspec_to_item,
    restarted_from_item,
    restarted_to_item,
    session_from_item,
    session_to_item,
    step_from_item,
    step_to_item,
    to_text,
    variable_from_item,
    variable_to_item,
)

STEP = RunStep(
    id="step_1",
    session_id="sess_1",
    principal="ada",
    code="print('\ud800\x00')",
    status=StepStatus.FAILED,
    epoch=2,
    timeout=60,
    created_at=1.25,
    started_at=2.5,
    finished_at=3.125,
    outputs=(
        StreamOutput(name="stdout", text="a\x00\ud800\u2028é", omitted=3),
        DisplayOutput(
            kind="result",
            data={"text/plain": "1", "application/json": {"a": [1, None]}},
            metadata={"image/png": {"width": 1}},
            display_id="d",
            execution_count=4,
        ),
        ErrorOutput(name="ValueError", message="no", traceback="\x1b[31mno"),
    ),
    files=(ChangedFile(path="a/b.csv", size=None, sha256=None, change="deleted"),),
    error=StepError(code="code_error", message="it raised"),
    notices=("Kernel restarted",),
    execution_count=4,
    full_text=FullText(key="k", size=9),
    truncated=True,
    replays="step_0",
)

SESSION = Session(
    id="sess_1",
    principal="ada",
    name="Ünnamed",
    server="embedded",
    kernelspec="python3",
    isolation="namespaces",
    created_at=1.5,
    last_used_at=2.5,
    epoch=2,
    kernel=KernelRef(
        server="s", kernel_id="k", channel_id="c", kernelspec="python3", language="python"
    ),
    lost="it died",
    workspace_bytes=7,
    network="allowlist",
    environment=("A", "B"),
)


def through_json(item: dict[str, object]) -> dict[str, object]:
    text = to_text(item)  # type: ignore[arg-type]
    assert text.isascii() and "\n" not in text
    read: dict[str, object] = json.loads(text)
    return {**read, "of_a_later_release": 1}


def test_a_step_comes_back_whole() -> None:
    assert step_from_item(through_json(step_to_item(STEP))) == STEP


def test_a_session_comes_back_whole() -> None:
    for session in (SESSION, dataclasses.replace(SESSION, kernel=None, name=None)):
        assert session_from_item(through_json(session_to_item(session))) == session
    restarted = Restarted(session=SESSION, replayed=(STEP,))
    assert restarted_from_item(through_json(restarted_to_item(restarted))) == restarted


@pytest.mark.parametrize(
    "event",
    [
        StepQueued(step=STEP),
        StepStarted(step=STEP),
        *(StepOutput(output=output) for output in STEP.outputs),
        StepDisplayUpdated(display_id="d", data={"text/plain": "2"}, metadata={"a": 1}),
        StepOutputCleared(wait=True),
        StepFinished(step=STEP),
    ],
)
def test_an_event_comes_back_whole(event: StepEvent) -> None:
    assert event_from_item(through_json(event_to_item(event))) == event


@pytest.mark.parametrize(
    "event",
    [
        CommandOutput(name="stderr", text="no\n"),
        CommandDone(exit_status=-9, timed_out=True, truncated=False, via="sandbox"),
    ],
)
def test_an_event_of_a_command_comes_back_whole(event: CommandEvent) -> None:
    assert command_event_from_item(through_json(command_event_to_item(event))) == event


def test_the_smaller_nouns_come_back_whole() -> None:
    file = File(
        id="file-1",
        principal="ada",
        session_id=None,
        path="ä.csv",
        size=3,
        sha256="ab",
        media_type="text/csv",
        modified_at=1.5,
    )
    variable = Variable(name="x", type="int", detail="1")
    spec = KernelSpec(name="python3", display_name="Python 3", language="python")
    result = CommandResult(
        stdout="a", stderr="", exit_status=0, timed_out=False, truncated=False, via="process"
    )

    assert file_from_item(through_json(file_to_item(file))) == file
    assert variable_from_item(through_json(variable_to_item(variable))) == variable
    assert kernelspec_from_item(through_json(kernelspec_to_item(spec))) == spec
    assert command_result_from_item(through_json(command_result_to_item(result))) == result


def test_unknown_kinds_are_refused() -> None:
    for read in (event_from_item, command_event_from_item):
        with pytest.raises(ValueError, match="Unknown type"):
            read({"type": "of a later release"})


def every_error() -> list[CIToolsError]:
    made: list[CIToolsError] = []
    kinds: list[Any] = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    for kind in kinds:
        match kind.__name__:
            case "NotFoundError":
                made.append(kind("session", "sess_1"))
            case "InvalidPathError":
                made.append(kind("../a", "it leaves the folder"))
            case "LimitError":
                made.append(kind("too often", retry_after=1.5))
            case "FileTooLargeError":
                made.append(kind("a", 9))
            case "ServiceClosedError":
                made.append(kind())
            case _:
                made.append(kind("what happened"))
    return made


@pytest.mark.parametrize("error", every_error(), ids=lambda error: type(error).__name__)
def test_an_error_comes_back_as_what_it_was(error: CIToolsError) -> None:
    read = error_from_item(through_json(error_to_item(error)))

    assert type(read) is type(error)
    assert (str(read), read.args) == (str(error), (str(error),))
    assert vars(read) == vars(error)


def test_what_an_error_does_not_say_has_a_value_all_the_same() -> None:
    limit = error_from_item({"code": "limit_exceeded", "message": "too much"})
    missing = error_from_item({"code": "not_found", "message": "gone"})
    large = error_from_item({"code": "file_too_large", "message": "large"})
    unknown = error_from_item({"code": "of_a_later_release", "message": "?"})

    assert isinstance(limit, LimitError) and limit.retry_after is None
    assert isinstance(missing, NotFoundError) and (missing.kind, missing.id) == ("", "")
    assert isinstance(large, FileTooLargeError) and large.retry_after is None
    assert type(unknown) is errors.BackendError


def test_numbers_that_json_does_not_have_become_null() -> None:
    value = {"a": [float("nan"), float("inf"), 1.5, "x", None, True], "b": {"c": float("-inf")}}

    text = to_text(value)  # type: ignore[arg-type]

    assert json.loads(text) == {"a": [None, None, 1.5, "x", None, True], "b": {"c": None}}
