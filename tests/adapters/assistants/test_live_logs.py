import pytest

from ci_tools_assistants.runs.live_logs import LiveLogs


def stream(*pieces: tuple[str, str], limit: int = 1000) -> list[str]:
    logs = LiveLogs(limit)
    sent = [logs.add("stderr" if name == "err" else "stdout", text) for name, text in pieces]
    return [*sent, logs.finish()]


def test_a_line_is_sent_when_it_has_ended() -> None:
    assert stream(("out", "a"), ("out", "b\nc"), ("out", "\n")) == ["", "ab", "\nc", ""]


def test_logs_end_with_their_last_line() -> None:
    assert "".join(stream(("out", "a\n\n"), ("out", "b\n\n\n"))) == "a\n\nb"


def test_a_progress_bar_is_one_line() -> None:
    bar = [("err", f"\r{percent}%|{'#' * (percent // 10)}") for percent in range(0, 101, 10)]

    assert stream(*bar, ("err", "\n"), ("out", "done\n")) == [
        *[""] * 11,
        "100%|##########",
        "\ndone",
        "",
    ]


def test_bars_drawn_over_each_other_wait_for_the_end() -> None:
    pieces = ["\r 0%\n", "\r 50%\x1b[A", "\r100%\n", "\r100%\n"]

    assert "".join(stream(*(("err", piece) for piece in pieces))).count("%") <= 3


def test_streams_do_not_break_each_others_lines() -> None:
    sent = stream(("out", "one "), ("err", "warning\n"), ("out", "line\n"))

    assert "".join(sent) == "warning\none line"


def test_a_block_stands_on_lines_of_its_own() -> None:
    logs = LiveLogs()

    sent = logs.add("stdout", "a") + logs.add_block("4") + logs.add_block("5") + logs.finish()

    assert sent == "a\n4\n5"


def test_an_image_begins_other_logs() -> None:
    logs = LiveLogs()

    first = logs.add("stdout", "a\nb") + logs.end_segment()
    second = logs.add("stdout", "c\n") + logs.finish()

    assert (first, second) == ("a\nb", "c")


@pytest.mark.parametrize("piece", ["x" * 10 + "\n", "x" * 5000])
def test_long_logs_keep_head_and_tail(piece: str) -> None:
    logs = LiveLogs(1000)

    sent = "".join(logs.add("stdout", piece) for _ in range(1000))
    whole = sent + logs.add("stdout", "\nlast\n") + logs.finish()

    assert len(sent) <= 500
    assert len(whole) < 1100
    assert "characters left out" in whole
    assert whole.endswith("\nlast")


def test_logs_as_long_as_the_limit_are_not_cut() -> None:
    lines = [("out", f"{number:09}\n") for number in range(100)]

    assert "".join(stream(*lines)) == "".join(text for _, text in lines).rstrip("\n")
