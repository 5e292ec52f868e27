from pathlib import Path

import pytest

from ci_tools import DisplayOutput, ErrorOutput, StepOutputCleared, StreamOutput
from ci_tools.kernel import ClearOutput, DisplayUpdate, OutputLost
from ci_tools.outputs import OutputLimitError, OutputLog


@pytest.fixture
def log(tmp_path: Path) -> OutputLog:
    return OutputLog(tmp_path / "spool", text_limit=20, display_limit=100, full_text_limit=1000)


def _out(text: str) -> StreamOutput:
    return StreamOutput(name="stdout", text=text)


def _err(text: str) -> StreamOutput:
    return StreamOutput(name="stderr", text=text)


def test_text_of_one_stream_is_joined_and_streams_keep_their_order(log: OutputLog) -> None:
    for output in (_out("a"), _out("b"), _err("c"), _out("d")):
        log.add(output)

    assert log.outputs() == (_out("ab"), _err("c"), _out("d"))
    assert not log.truncated


def test_head_and_tail_of_long_text_are_kept(log: OutputLog) -> None:
    log.add(_out("0123456789abcdefghijKLMNOPQRSTUVWXYZ"))

    [output] = log.outputs()
    assert output == StreamOutput(
        name="stdout",
        text="0123456789\n[… 16 characters left out …]\nQRSTUVWXYZ",
        omitted=16,
    )
    assert log.truncated


def test_text_in_small_pieces_is_cut_like_one_piece(log: OutputLog) -> None:
    for character in "0123456789abcdefghijKLMNOPQRSTUVWXYZ":
        log.add(_out(character))

    assert log.outputs() == (
        StreamOutput(
            name="stdout",
            text="0123456789\n[… 16 characters left out …]\nQRSTUVWXYZ",
            omitted=16,
        ),
    )


def test_what_another_stream_pushes_out_is_counted_where_it_stood(log: OutputLog) -> None:
    log.add(_out("0123456789"))
    log.add(_out("abcde"))
    log.add(_err("ABCDEFGHIJ"))

    assert log.outputs() == (
        StreamOutput(name="stdout", text="0123456789\n[… 5 characters left out …]\n", omitted=5),
        _err("ABCDEFGHIJ"),
    )


def test_spool_has_all_text(log: OutputLog, tmp_path: Path) -> None:
    log.add(_out("é" * 30))
    log.add(DisplayOutput(kind="result", data={"text/plain": "42"}))
    log.flush()

    assert (tmp_path / "spool").read_text() == "é" * 30 + "42\n"

    log.discard()

    assert not (tmp_path / "spool").exists()


def test_text_beyond_the_full_limit_ends_the_step(log: OutputLog) -> None:
    with pytest.raises(OutputLimitError):
        log.add(_out("x" * 1001))


def test_rich_output_beyond_its_budget_is_left_out_and_said(log: OutputLog) -> None:
    log.add(DisplayOutput(kind="display", data={"image/png": "A" * 60, "text/plain": "one"}))
    log.add(DisplayOutput(kind="display", data={"image/png": "B" * 60, "text/plain": "two"}))

    assert log.outputs()[1] == DisplayOutput(kind="display", data={"text/plain": "two"})
    assert "1 rich outputs" in log.notices()[0]


def test_waiting_clear_happens_with_the_next_output(log: OutputLog) -> None:
    log.add(_out("old"))

    told = log.add(ClearOutput(wait=True))

    assert told == StepOutputCleared(wait=True)
    assert log.outputs() == (_out("old"),)

    log.add(_out("new"))

    assert log.outputs() == (_out("new"),)


def test_endless_progress_with_clear_does_not_use_up_the_budget(log: OutputLog) -> None:
    for number in range(20):
        log.add(_out(f"step {number:02}"))
        log.add(ClearOutput(wait=False))
    log.add(_out("done"))

    assert log.outputs() == (_out("done"),)
    assert not log.truncated


def test_update_of_an_earlier_steps_display_is_shown_as_new(log: OutputLog) -> None:
    log.add(DisplayUpdate(display_id="old", data={"text/plain": "news"}))

    assert log.outputs() == (
        DisplayOutput(kind="display", data={"text/plain": "news"}, display_id="old"),
    )


def test_lost_output_is_said_once(log: OutputLog) -> None:
    log.add(OutputLost(message="The server dropped output."))
    log.add(OutputLost(message="The server dropped output."))

    assert log.notices() == ("The server dropped output.",)
    assert log.truncated


def test_long_traceback_is_cut(log: OutputLog) -> None:
    log.add(ErrorOutput(name="E", message="m", traceback="t" * 100))

    [output] = log.outputs()
    assert isinstance(output, ErrorOutput)
    assert "80 characters left out" in output.traceback
