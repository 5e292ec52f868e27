import time

import pytest

from ci_tools.folding import fold_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain\n\ttext\n", "plain\n\ttext\n"),
        ("", ""),
        ("  0%|  |\r 50%|# |\r100%|##|\n", "100%|##|\n"),
        ("downloading 100%\rdone\n", "doneloading 100%\n"),
        ("line\r\nnext\r\n", "line\nnext\n"),
        ("spin -\b\\\b|\b/", "spin /"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;https://a.example\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("working...\r\x1b[Kdone\n", "done\n"),
        ("working...\x1b[2K\rdone\n", "done\n"),
        ("abc\x1b[2Dx", "axc"),
        ("a\x1b[3Cb", "a   b"),
        ("abc\x1b[1Gx\x1b[2Cy", "xbcy"),
        ("old\nold\x1b[2J\x1b[Hnew", "new"),
        ("bell\a\x00 and \x1b(B\x1b7set", "bell and set"),
        ("cut in the middle \x1b[3", "cut in the middle"),
        ("half \ud83d of a character", "half \ufffd of a character"),
        ("50%\r", "50%"),
    ],
)
def test_text_is_what_a_terminal_shows(text: str, expected: str) -> None:
    assert fold_text(text) == expected


def test_nested_bars_stay_where_they_are() -> None:
    text = "outer 0\ninner 0\x1b[A\router 1\n\rinner 1\x1b[A\router 2\n\rinner 2\n"

    assert fold_text(text) == "outer 2\ninner 2\n"


def test_a_live_display_is_shown_once() -> None:
    frame = "\r\x1b[2Ka {0}\n\x1b[2Kb {0}"
    text = "\x1b[?25l" + "\r\x1b[2K\x1b[1A".join(frame.format(i) for i in range(50)) + "\n\x1b[?25h"

    assert fold_text(text) == "a 49\nb 49\n"


def test_a_cleared_bar_leaves_nothing_behind() -> None:
    assert fold_text("50%|####    |\r" + " " * 13 + "\rdone\n") == "done\n"


@pytest.mark.parametrize(
    "text",
    [
        "\r" * 5_000_000,
        "a\r" * 1_000_000,
        "a\b" * 100_000,
        "x" * 300_000 + "\x1b[2Ky" * 20_000,
        ("x" * 1_000 + "\x1b[1K") * 300,
        "\x1b[2K\x1b[500Cx" * 10_000,
        "\x1b]" * 100_000,
        "\x90" * 500_000,
        "\x1b]" + "a" * 1_000_000,
        "\x1b[" + "9" * 1_000_000,
        "\n" * 50_000 + "\x1b[A" * 50_000 + "\x1b[J",
    ],
)
def test_time_does_not_explode(text: str) -> None:
    start = time.process_time()

    fold_text(text)

    assert time.process_time() - start < 10, "a tenth of a second if it is linear"


def test_any_characters_are_taken() -> None:
    for code in range(0x110000 // 997):
        fold_text(f"a{chr(code * 997)}\x1b{chr(code % 256)}b\x1b[{chr(code % 128)}c")
