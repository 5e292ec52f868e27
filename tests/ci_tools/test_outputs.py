import time
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


def test_changes_between_streams_do_not_use_up_memory(tmp_path: Path) -> None:
    log = OutputLog(
        tmp_path / "spool", text_limit=20_000, display_limit=0, full_text_limit=1_000_000
    )

    for _ in range(30_000):
        log.add(_out("o"))
        log.add(_err("e"))

    outputs = log.outputs()
    assert len(outputs) == 1000
    assert sum(len(output.text) for output in outputs if isinstance(output, StreamOutput)) < 30_000
    log.flush()
    assert (tmp_path / "spool").read_text() == "oe" * 30_000


def test_errors_beyond_a_number_are_dropped_but_the_last(log: OutputLog) -> None:
    for number in range(100):
        log.add(ErrorOutput(name="E", message=str(number), traceback=""))

    outputs = log.outputs()
    assert len(outputs) == 20
    assert outputs[-1] == ErrorOutput(name="E", message="99", traceback="")
    assert log.truncated


def test_metadata_and_names_count_as_rich_output(log: OutputLog) -> None:
    huge = "m" * 1_000_000

    log.add(DisplayOutput(kind="display", data={"text/plain": "a"}, metadata={"key": huge}))
    log.add(DisplayOutput(kind="display", data={"text/plain": "b"}, display_id=huge))
    log.add(DisplayOutput(kind="display", data={huge: "c"}))
    log.add(DisplayOutput(kind="display", data={"text/plain": [huge]}))

    assert log.outputs() == ()
    assert "4 rich outputs" in log.notices()[0]


def test_tiny_prints_after_a_large_one_do_not_copy_it_each_time(tmp_path: Path) -> None:
    log = OutputLog(
        tmp_path / "spool",
        text_limit=20_000_000,
        display_limit=0,
        full_text_limit=100_000_000,
    )
    log.add(_out("x" * 20_000_000))
    started = time.process_time()

    for _ in range(20_000):
        log.add(_out("y"))

    assert time.process_time() - started < 5, "tenths of a second if it is linear"


def test_full_disk_loses_the_spool_but_not_the_step(tmp_path: Path) -> None:
    log = OutputLog(
        tmp_path / "missing" / "spool", text_limit=20, display_limit=0, full_text_limit=1_000_000
    )

    log.add(_out("x" * 200_000))
    log.flush()

    assert not log.spooled
    assert "the rest is lost" in log.notices()[0]
