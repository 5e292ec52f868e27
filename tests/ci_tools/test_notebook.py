import json
from typing import Any

import nbformat
import pytest

from ci_tools.models import (
    ChangedFile,
    DisplayOutput,
    ErrorOutput,
    KernelRef,
    Output,
    RunStep,
    Session,
    StepError,
    StepStatus,
    StreamOutput,
)
from ci_tools.notebook import to_notebook

KERNEL = KernelRef(
    server="embedded", kernel_id="k", channel_id="c", kernelspec="python3", language="python"
)


def make_session(kernel: KernelRef | None = KERNEL) -> Session:
    return Session(
        id="sess_1",
        principal="local",
        name="default",
        server="embedded",
        kernelspec="python3",
        isolation="none",
        created_at=1.0,
        last_used_at=2.0,
        epoch=2,
        kernel=kernel,
    )


def make_step(
    number: int,
    *outputs: Output,
    epoch: int = 1,
    status: StepStatus = StepStatus.COMPLETED,
    error: StepError | None = None,
) -> RunStep:
    return RunStep(
        id=f"step_{number}",
        session_id="sess_1",
        principal="local",
        code=f"print({number})",
        status=status,
        epoch=epoch,
        timeout=300,
        created_at=float(number),
        started_at=float(number),
        finished_at=number + 0.5,
        outputs=outputs,
        error=error,
        execution_count=number,
        files=(ChangedFile(path="a.csv", size=3, sha256="ab", change="created"),),
        notices=("A notice.",),
    )


def valid_notebook(session: Session, steps: list[RunStep]) -> dict[str, Any]:
    notebook = json.loads(json.dumps(to_notebook(session, steps)))
    nbformat.validate(notebook)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    return notebook  # type: ignore[no-any-return]


def test_a_session_without_steps_is_a_valid_notebook() -> None:
    notebook = valid_notebook(make_session(kernel=None), [])

    assert notebook["cells"] == []
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert "language_info" not in notebook["metadata"]


def test_every_kind_of_output_is_kept() -> None:
    step = make_step(
        1,
        StreamOutput(name="stdout", text="a\rb\n"),
        DisplayOutput(kind="display", data={"image/png": "aGk=", "text/plain": "<Figure>"}),
        DisplayOutput(
            kind="result", data={"application/json": {"a": 1}, "text/plain": "x"}, execution_count=1
        ),
        ErrorOutput(name="ValueError", message="no", traceback="one\ntwo"),
        DisplayOutput(kind="display", data={"application/x.odd": [1, 2], "text/html": "\ud800"}),
    )

    notebook = valid_notebook(make_session(), [step])

    assert [output["output_type"] for output in notebook["cells"][0]["outputs"]] == [
        "stream",
        "display_data",
        "execute_result",
        "error",
        "display_data",
    ]
    assert notebook["cells"][0]["outputs"][0]["text"] == "b\n"
    assert notebook["cells"][0]["outputs"][2]["data"]["application/json"] == {"a": 1}
    assert notebook["cells"][0]["outputs"][3]["traceback"] == ["one", "two"]
    assert notebook["cells"][0]["outputs"][4]["data"] == {
        "application/x.odd": "[1, 2]",
        "text/html": "\ufffd",
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10 %\r50 %\r100 %\ndone\n", "100 %\ndone\n"),
        ("one\ntwo\x1b[1A\rONE\n", "ONE\ntwo"),
        ("\x1b[31mred\x1b[0m\r\n", "\x1b[31mred\x1b[0m\n"),
    ],
)
def test_progress_is_folded_and_colours_stay(text: str, expected: str) -> None:
    step = make_step(1, StreamOutput(name="stdout", text=text))

    notebook = valid_notebook(make_session(), [step])

    assert notebook["cells"][0]["outputs"][0]["text"] == expected


def test_cells_carry_their_step() -> None:
    notebook = valid_notebook(make_session(), [make_step(1)])

    cell = notebook["cells"][0]
    assert cell["id"] == "step_1"
    assert cell["source"] == "print(1)"
    assert cell["execution_count"] == 1
    assert cell["metadata"]["ci_tools"]["status"] == "completed"
    assert cell["metadata"]["ci_tools"]["files"][0]["path"] == "a.csv"
    assert notebook["metadata"]["language_info"] == {"name": "python"}


def test_a_restart_is_a_markdown_cell_and_order_is_that_of_time() -> None:
    steps = [make_step(3, epoch=2), make_step(2, epoch=0), make_step(1)]

    notebook = valid_notebook(make_session(), steps)

    assert [cell["id"] for cell in notebook["cells"]] == [
        "step_1",
        "step_2",
        "restart-step_3",
        "step_3",
    ]
    assert to_notebook(make_session(), steps) == to_notebook(make_session(), steps[::-1])


def test_a_step_that_ended_without_traceback_shows_its_error() -> None:
    error = StepError(code="timeout", message="Stopped after 3 s.")
    step = make_step(1, status=StepStatus.EXPIRED, error=error)

    notebook = valid_notebook(make_session(), [step])

    assert notebook["cells"][0]["outputs"] == [
        {
            "output_type": "error",
            "ename": "timeout",
            "evalue": "Stopped after 3 s.",
            "traceback": ["timeout: Stopped after 3 s."],
        }
    ]
