import pytest

from ci_tools.models import (
    ChangedFile,
    DisplayOutput,
    ErrorOutput,
    FullText,
    KernelRef,
    Output,
    StepError,
    StreamOutput,
)
from ci_tools.stores import codec


@pytest.mark.parametrize(
    "output",
    [
        StreamOutput(name="stdout", text="a\x00\ud800\r\n\x1b[0mü"),
        StreamOutput(name="stderr", text="", omitted=5),
        DisplayOutput(kind="result", data={"text/plain": "1"}, execution_count=1),
        DisplayOutput(
            kind="display",
            data={"application/json": [1, {"a": None}], "image/png": "iVBO"},
            metadata={"image/png": {"width": 1}},
            display_id="d",
        ),
        ErrorOutput(name="E", message="m", traceback="t"),
    ],
)
def test_outputs_come_back_as_they_were(output: Output) -> None:
    text = codec.outputs_to_text([output, output])

    assert text.isascii()
    assert codec.outputs_from_text(text) == (output, output)


def test_a_reader_ignores_keys_that_it_does_not_know() -> None:
    item = {"type": "stream", "name": "stdout", "text": "a", "colour": "red"}

    assert codec.output_from_json(item) == StreamOutput(name="stdout", text="a")


def test_an_unknown_type_of_output_is_refused() -> None:
    with pytest.raises(ValueError, match="hologram"):
        codec.output_from_json({"type": "hologram"})


def test_the_other_parts_of_a_step_come_back_as_they_were() -> None:
    file = ChangedFile(path="a", size=1, sha256="b", change="created")
    error = StepError(code="timeout", message="m")
    full_text = FullText(key="k", size=3)
    kernel = KernelRef(server="s", kernel_id="k", channel_id="c", kernelspec="p", language="l")

    assert codec.file_from_json(codec.from_text(codec.to_text(codec.file_to_json(file)))) == file
    assert (
        codec.error_from_json(codec.from_text(codec.to_text(codec.error_to_json(error)))) == error
    )
    for value in (full_text, None):
        text = codec.to_text(codec.full_text_to_json(value))
        assert codec.full_text_from_json(codec.from_text(text)) == value
    for ref in (kernel, None):
        text = codec.to_text(codec.kernel_to_json(ref))
        assert codec.kernel_from_json(codec.from_text(text)) == ref
