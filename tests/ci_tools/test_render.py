import base64

import pytest

from ci_tools.models import (
    ChangedFile,
    DisplayOutput,
    ErrorOutput,
    Json,
    Output,
    RunStep,
    StepError,
    StepStatus,
    StreamOutput,
)
from ci_tools.render import Image, render_step

PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)


def make_step(
    *outputs: Output,
    status: StepStatus = StepStatus.COMPLETED,
    error: StepError | None = None,
    files: tuple[ChangedFile, ...] = (),
    notices: tuple[str, ...] = (),
) -> RunStep:
    return RunStep(
        id="step_1",
        session_id="sess_1",
        principal="local",
        code="…",
        status=status,
        epoch=1,
        timeout=300,
        created_at=0,
        outputs=outputs,
        error=error,
        files=files,
        notices=notices,
    )


def out(text: str) -> StreamOutput:
    return StreamOutput(name="stdout", text=text)


def err(text: str) -> StreamOutput:
    return StreamOutput(name="stderr", text=text)


def result(data: dict[str, Json]) -> DisplayOutput:
    return DisplayOutput(kind="result", data=data)


def display(data: dict[str, Json]) -> DisplayOutput:
    return DisplayOutput(kind="display", data=data)


def png(data: bytes = PNG) -> DisplayOutput:
    encoded = base64.b64encode(data).decode()
    return display({"image/png": encoded, "text/plain": "<Figure size 640x480 with 1 Axes>"})


@pytest.mark.parametrize(
    ("outputs", "text"),
    [
        ((), "(no output)"),
        ((out("hello\n"),), "hello"),
        ((out("hel"), out("lo\n")), "hello"),
        ((out(""),), "(no output)"),
        ((result({"text/plain": "42"}),), "42"),
        ((out("a\n"), result({"text/plain": "42"})), "stdout:\na\nresult:\n42"),
        ((err("careful\n"),), "stderr:\ncareful"),
        ((out("a\n"), err("b\n"), out("c\n")), "stdout:\na\nstderr:\nb\nstdout:\nc"),
        ((result({"text/html": "<b>x</b>"}),), "[text/html, 8 characters, not shown as text]"),
        ((result({"text/html": "<table>", "text/plain": "   a\n0  1"}),), "   a\n0  1"),
        ((display({"application/json": {"a": [1]}}),), '{\n  "a": [\n    1\n  ]\n}'),
        ((display({"text/latex": "$x^2$"}),), "$x^2$"),
        (
            (
                display(
                    {
                        "text/plain": "<IPython.core.display.Markdown object>",
                        "text/markdown": "# Title",
                    }
                ),
            ),
            "# Title",
        ),
        (
            (display({"application/vnd.plotly.v1+json": {"data": []}}),),
            "[application/vnd.plotly.v1+json, not shown as text]",
        ),
        (
            (display({"image/svg+xml": "<svg/>", "text/plain": "<Figure size 1x1 with 0 Axes>"}),),
            "[image/svg+xml, 6 characters, not shown as text]",
        ),
        (
            (result({"text/plain": "<__main__.A object at 0x7f00>"}),),
            "<__main__.A object at 0x7f00>",
        ),
        ((display({}),), "(no output)"),
        ((out("half \ud83d"),), "half \ufffd"),
    ],
)
def test_outputs_become_text(outputs: tuple[Output, ...], text: str) -> None:
    assert render_step(make_step(*outputs)).text == text


def test_a_progress_bar_between_prints_is_one_line() -> None:
    outputs: list[Output] = [err("\r  0%")]
    for number in range(3):
        outputs += [out(f"item {number}\n"), err(f"\r {number * 50}%")]
    outputs.append(err("\n"))

    text = render_step(make_step(*outputs)).text

    assert text == "stderr:\n 100%\nstdout:\nitem 0\nitem 1\nitem 2"


def test_notices_come_first_and_files_last() -> None:
    step = make_step(
        out("x\n"),
        notices=("Kernel restarted.",),
        files=(
            ChangedFile(path="a.csv", size=1234, sha256="…", change="created"),
            ChangedFile(path="b.csv", size=None, sha256=None, change="deleted"),
        ),
    )

    assert render_step(step).text == (
        "Note: Kernel restarted.\nx\nFiles in /mnt/data:\n- created a.csv (1,234 bytes)\n"
        "- deleted b.csv"
    )


def test_many_files_are_counted() -> None:
    files = tuple(ChangedFile(path=f"{i}", size=1, sha256="…", change="created") for i in range(60))

    assert render_step(make_step(files=files)).text.endswith("- and 10 more")


def test_a_traceback_is_readable() -> None:
    error = ErrorOutput(
        name="ValueError",
        message="no",
        traceback="\x1b[0;31m" + "-" * 75 + "\x1b[0m\n\x1b[31mValueError\x1b[0m: no",
    )
    step = make_step(
        error, status=StepStatus.FAILED, error=StepError(code="code_error", message="no")
    )

    assert render_step(step).text == "ValueError: no"


def test_an_error_without_traceback_is_its_name() -> None:
    step = make_step(ErrorOutput(name="Stop", message="", traceback=""), status=StepStatus.FAILED)

    assert render_step(step).text == "Stop"


def test_the_end_is_said() -> None:
    step = make_step(
        out("so far\n"),
        status=StepStatus.EXPIRED,
        error=StepError(code="timeout", message="Stopped after 3 s."),
    )

    assert render_step(step).text == "so far\nError (timeout): Stopped after 3 s."


def test_a_running_step_says_that_nothing_came_yet() -> None:
    assert render_step(make_step(status=StepStatus.IN_PROGRESS)).text == "(no output yet)"


def test_long_text_keeps_head_and_tail() -> None:
    lines = "".join(f"line {number}\n" for number in range(10_000))

    rendered = render_step(make_step(out(lines), notices=("Kept.",)), text_limit=1_000)

    assert rendered.text.startswith("Note: Kept.\nline 0\n")
    assert rendered.text.endswith("line 9999")
    assert rendered.omitted_characters > 90_000
    assert f"[… {rendered.omitted_characters:,} characters left out" in rendered.text
    assert len(rendered.text) < 1_200


def test_a_long_line_is_cut_in_the_middle() -> None:
    rendered = render_step(make_step(out("x" * 100_000)), text_limit=1_000)

    assert rendered.omitted_characters == 99_000


def test_images_are_decoded_and_named() -> None:
    rendered = render_step(make_step(png(), result({"text/plain": "done"})))

    assert rendered.text == "[image 1]\ndone"
    assert rendered.images == (Image(media_type="image/png", data=PNG, number=1),)
    assert rendered.omitted_images == 0


def test_images_beyond_the_limit_are_counted() -> None:
    step = make_step(*[png() for _ in range(6)])

    rendered = render_step(step)

    assert [image.number for image in rendered.images] == [1, 2, 3, 4]
    assert rendered.omitted_images == 2
    assert rendered.text.endswith("2 of 6 images are not shown.")
    assert [image.number for image in render_step(step, first_image=5).images] == [5, 6]


def test_an_image_that_is_too_large_leaves_room_for_others() -> None:
    rendered = render_step(make_step(png(bytes(2_000)), png()), image_bytes=1_000)

    assert [image.number for image in rendered.images] == [2]


def test_a_broken_image_is_left_out() -> None:
    rendered = render_step(make_step(display({"image/png": "é"})))

    assert rendered.images == ()
    assert rendered.text == "[image/png, 1 characters, not shown as text]"
