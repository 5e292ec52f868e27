"""Record a real run of `ci-tools demo` as docs/demo.svg: `python tests/record_demo.py`.

The picture has the beginning, the step that fails and its repair, and the end of the run.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.text import Text

import ci_tools_server.demo

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "demo.svg"

WIDTH = 100
"""Columns."""

LEFT_OUT = (("4. ", "Steps of the session"),)
"""What a range of lines that is left out begins with, and the first line that is shown again."""

FORMAT = """\
<svg viewBox="0 0 {terminal_width} {terminal_height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
    font-family: ui-monospace, Menlo, Consolas, monospace;
    font-size: {char_height}px;
    line-height: {line_height}px;
}}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
<rect fill="#292929" width="{terminal_width}" height="{terminal_height}" rx="8" />
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""
"""Rich's own form names a font host."""


@contextmanager
def in_new_folder() -> Iterator[None]:
    """Work in a temporary directory, where the demo leaves its files."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


def record() -> str:
    """Run the demo; return what a terminal gets, with its colours."""
    with open(os.devnull, "w") as nowhere, in_new_folder():
        console = Console(
            record=True, width=WIDTH, force_terminal=True, color_system="truecolor", file=nowhere
        )
        setattr(ci_tools_server.demo, "Console", lambda **_: console)  # noqa: B010 - for mypy
        ci_tools_server.demo.run_demo(Path())
        return console.export_text(styles=True)


def is_spinner(line: Text) -> bool:
    """Whether a terminal has overwritten the line."""
    return "\u2800" <= line.plain[:1] <= "\u28ff"


def crop(lines: Sequence[Text]) -> list[Text]:
    """Leave out what adds nothing to a picture, among it paths of this machine."""
    kept = list(lines)
    for beginning, end in LEFT_OUT:
        first, last = (find_line(kept, start) for start in (beginning, end))
        kept[first:last] = [Text("⋮", style="bold"), Text()]
    return kept


def find_line(lines: Sequence[Text], beginning: str) -> int:
    """Return the number of the first line that begins so."""
    return next(i for i, line in enumerate(lines) if line.plain.startswith(beginning))


def main() -> None:
    """Record and draw."""
    lines = [Text.from_ansi(line) for line in record().splitlines()]
    lines = crop([line for line in lines if not is_spinner(line)])
    with open(os.devnull, "w") as nowhere:
        picture = Console(
            record=True, width=WIDTH, force_terminal=True, color_system="truecolor", file=nowhere
        )
        for line in lines:
            picture.print(line, soft_wrap=True)
        PICTURE.write_text(picture.export_svg(code_format=FORMAT), encoding="utf-8")


if __name__ == "__main__":
    main()
