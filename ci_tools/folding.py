"""What a terminal would show at the end: progress bars become one line, colours disappear.

How this works: text is taken line by line. Most lines hold no control character and are kept as
they are; lines with carriage returns only (tqdm, pip) are overlaid part by part; everything else
(cursor movements of rich, nested bars) is played on a small screen of character cells. The time is
linear in the length of the text, whatever it holds.
"""

import re
from typing import TypeAlias

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""Everything that is not plain text (newlines and tabs are); escapes begin with one of them."""

_BEYOND_RETURN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
"""Control characters other than the carriage return."""

_SURROGATE = re.compile(r"[\ud800-\udfff]")
"""Halves of characters, which no encoder takes."""

_TOKEN = re.compile(
    r"(?P<text>[^\x00-\x08\x0a-\x1f\x7f-\x9f]+)"
    r"|(?P<newline>\n)"
    r"|(?P<back>\x08+)"
    r"|(?P<return>\r+)"
    r"|(?:\x1b\[|\x9b)(?P<parameters>[0-?]*)[ -/]*(?P<final>[@-~]?)"
    # No introducer inside a string: else each of a million would be searched to the text's end.
    r"|(?P<string>(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x90\x98\x9c-\x9f\n]*"
    r"(?:\x07|\x1b\\|\x9c))"
    r"|(?P<escape>\x1b[ -/]*[0-~]?)"
    r"|(?P<other>[\x00-\x1f\x7f-\x9f])"
)
"""ECMA-48 control sequences, as far as programs use them on a line-oriented terminal."""

_WIDTH = 500
"""Columns that a cursor movement reaches at most; it bounds the cost of one movement."""

_Row: TypeAlias = "str | list[str]"
"""A finished line, or the cells of one that was drawn on."""


def fold_text(text: str) -> str:
    """Return `text` as a terminal would show it, without colours and other control codes.

    Carriage returns, backspaces, cursor movements and erasures are applied; never raises.
    """
    if _CONTROL.search(text) is None:
        return text
    text = clean_text(text).replace("\r\n", "\n")
    screen = _Screen()
    lines = text.split("\n")
    for number, line in enumerate(lines):
        if not screen.is_fresh or _BEYOND_RETURN.search(line) is not None:
            screen.draw(line)
        elif "\r" in line:
            screen.put(_overlay(line))
        else:
            screen.put(line)
        if number < len(lines) - 1:
            screen.draw("\n")
    return screen.show()


def clean_text(text: str) -> str:
    """Return `text` with halves of characters replaced, which no encoder takes."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def _overlay(line: str) -> str:
    """Return what is visible of parts that each start at the first column."""
    visible = ""
    for part in reversed(line.split("\r")):
        if len(part) > len(visible):
            visible += part[len(visible) :]
    return visible.rstrip(" ")


class _Screen:
    """Rows of characters and a cursor; there is no bottom, and no width for text."""

    def __init__(self) -> None:
        self._rows: list[_Row] = [""]
        self._row = 0
        self._column = 0

    @property
    def is_fresh(self) -> bool:
        """Whether the cursor is at the start of an empty last row."""
        return self._row == len(self._rows) - 1 and self._column == 0 and not self._rows[-1]

    def put(self, line: str) -> None:
        """Set a whole line on a fresh row."""
        self._rows[self._row] = line
        self._column = len(line)

    def show(self) -> str:
        """Return the rows as text; rows that were drawn on end at their last visible character."""
        return "\n".join(
            row if isinstance(row, str) else "".join(row).rstrip(" ") for row in self._rows
        )

    def draw(self, text: str) -> None:
        """Play text and control sequences."""
        for token in _TOKEN.finditer(text):
            match token.lastgroup:
                case "text":
                    self._write(token.group())
                case "newline":
                    self._row += 1
                    self._column = 0
                    if self._row == len(self._rows):
                        self._rows.append("")
                case "return":
                    self._column = 0
                case "back":
                    self._column = max(0, self._column - len(token.group()))
                case "final":
                    self._control(token["parameters"], token["final"])
                case _:
                    pass

    def _cells(self) -> list[str]:
        row = self._rows[self._row]
        if isinstance(row, str):
            row = list(row)
            self._rows[self._row] = row
        return row

    def _write(self, text: str) -> None:
        cells = self._cells()
        if self._column > len(cells):
            cells.extend(" " * (self._column - len(cells)))
        end = self._column + len(text)
        cells[self._column : end] = text
        self._column = end

    def _control(self, parameters: str, final: str) -> None:
        first, _, second = parameters.partition(";")
        match final:
            case "A" | "F":
                self._row = max(0, self._row - _number(first, 1))
            case "B" | "E":
                self._row = min(len(self._rows) - 1, self._row + _number(first, 1))
            case "C":
                self._move_to(self._column + min(_number(first, 1), _WIDTH))
            case "D":
                self._column = max(0, self._column - _number(first, 1))
            case "G":
                self._move_to(_number(first, 1) - 1)
            case "H" | "f":
                self._row = min(len(self._rows), _number(first, 1)) - 1
                self._move_to(_number(second, 1) - 1)
            case "J":
                self._erase_screen(_number(first, 0))
            case "K":
                self._erase_line(_number(first, 0))
            case _:
                return
        if final in "EF":
            self._column = 0

    def _move_to(self, column: int) -> None:
        limit = max(_WIDTH, len(self._rows[self._row]))
        self._column = max(0, min(column, limit))

    def _erase_line(self, part: int) -> None:
        cells = self._cells()
        if part == 0:
            del cells[self._column :]
        elif self._column > _WIDTH:
            # Blanking a very long line again and again would not be linear.
            cells.clear()
            self._column = 0
        elif part == 1:
            end = min(self._column + 1, len(cells))
            cells[:end] = " " * end
        else:
            cells.clear()

    def _erase_screen(self, part: int) -> None:
        if part == 0:
            del self._rows[self._row + 1 :]
            self._erase_line(0)
        elif part in (2, 3):
            self._rows = [""]
            self._row = self._column = 0


def _number(parameter: str, default: int) -> int:
    """Read a parameter; what is no number counts as missing, and 0 as 1 where 1 is the default."""
    if not (parameter.isascii() and parameter.isdigit()):
        return default
    return max(int(parameter[-6:]), default)
