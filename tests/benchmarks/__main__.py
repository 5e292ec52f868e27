"""Measure ci-tools against raw baselines in the same run: `python -m tests.benchmarks --help`.

Each row runs in a process of its own, so that none inherits another's memory or kernels. The
table goes to the screen, one JSON line per row to `build/bench.jsonl`.
"""

import argparse
import compileall
import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
from rich.console import Console
from rich.table import Table

from tests.benchmarks import (
    assistants,
    files,
    kernels,
    langchain,
    latency,
    output,
    parallel,
    start,
)
from tests.benchmarks.measure import Row

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS = ROOT / "build" / "bench.jsonl"

ROW_LIMIT = 900
"""Seconds that one row may take."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a row must reach: a ratio to its baseline, or a value."""

    ratio_at_most: float | None = None
    ratio_at_least: float | None = None
    value_at_most: float | None = None

    def is_met(self, row: Row) -> bool:
        """Return whether the row reaches all of it."""
        ratio = row.ratio or 0.0
        return (
            (self.ratio_at_most is None or ratio <= self.ratio_at_most)
            and (self.ratio_at_least is None or ratio >= self.ratio_at_least)
            and (self.value_at_most is None or row.value <= self.value_at_most)
        )

    def __str__(self) -> str:
        parts = (
            (self.ratio_at_most, "≤ {:g}×"),
            (self.ratio_at_least, "≥ {:g}×"),
            (self.value_at_most, "≤ {:g}"),
        )
        return ", ".join(form.format(limit) for limit, form in parts if limit is not None)


TARGETS = {
    "run_code_embedded": Target(ratio_at_most=1.6),
    "run_code_remote": Target(ratio_at_most=1.6),
    "run_code_mcp_stdio": Target(ratio_at_most=2.0),
    "run_code_mcp_http": Target(ratio_at_most=2.5),
    "first_output": Target(ratio_at_most=2.0),
    "stdout_10mb": Target(ratio_at_most=2.0),
    "stdout_5000_prints": Target(ratio_at_most=2.0),
    "upload_512mb_rss": Target(value_at_most=64.0),
    "upload_512mb_embedded": Target(ratio_at_most=2.0),
    "upload_512mb_remote": Target(ratio_at_most=20.0),
    "download_512mb_remote": Target(ratio_at_most=3.0),
    "parallel_16": Target(ratio_at_least=0.7),
    "mcp_stdio_start": Target(ratio_at_most=1.5, value_at_most=1000.0),
    "session_start": Target(ratio_at_most=0.125),
    "session_burst_16": Target(ratio_at_most=0.125),
    "session_from_pool": Target(ratio_at_most=5.0),
    "sessions_per_gb": Target(ratio_at_least=2.2),
    "run_code_sandboxed": Target(ratio_at_most=1.1),
    "langchain_local": Target(ratio_at_most=1.4),
    "langchain_remote": Target(ratio_at_most=2.0),
    "langchain_import": Target(ratio_at_most=2.0),
    "run_overhead": Target(value_at_most=25.0),
    "first_delta": Target(value_at_most=5.0),
    "runs_100_errors": Target(value_at_most=0.0),
    "crud_rps": Target(ratio_at_least=0.5),
    "list_100k": Target(ratio_at_most=1.5),
}

MEASURES: dict[str, Callable[..., Awaitable[list[Row]]]] = {
    **latency.ROWS,
    **output.ROWS,
    **files.ROWS,
    **parallel.ROWS,
    **start.ROWS,
    **kernels.ROWS,
    **assistants.ROWS,
    **langchain.ROWS,
}

ROUNDS = {
    **dict.fromkeys(latency.WAYS, 12),
    "first_output": 6,
    "stdout_10mb": 7,
    "stdout_5000_prints": 5,
    **dict.fromkeys(files.ROWS, 3),
    "parallel_16": 4,
    "mcp_stdio_start": 7,
    "session_start": 7,
    "session_burst_16": 3,
    "session_burst_50": 2,
    "session_from_pool": 7,
    "sessions_per_gb": 1,
    "run_code_sandboxed": 12,
    **dict.fromkeys(langchain.OPENERS, 12),
    "langchain_import": 15,
    "run_overhead": 12,
    "first_delta": 12,
    "runs_100": 3,
    "crud_rps": 7,
    "list_100k": 7,
}
"""How often the two sides of a row take turns."""


def compile_everything() -> None:
    """Compile what both sides import, so that no run compares compiling with running."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    for folder in (ROOT / "ci_tools", ROOT / "kernels", ROOT / "adapters"):
        compileall.compile_dir(folder, quiet=2)
    compileall.compile_dir(sysconfig.get_path("purelib"), quiet=2, workers=0)


def measure_apart(name: str, *, rounds: int) -> list[Row]:
    """Measure one row in a new process.

    Raises:
        subprocess.SubprocessError: It failed or took too long.
    """
    command = [sys.executable, "-m", "tests.benchmarks", "--alone", name, "--rounds", str(rounds)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, timeout=ROW_LIMIT, check=True)
    return [Row(**json.loads(line)) for line in done.stdout.splitlines()]


def show(rows: Sequence[Row], console: Console) -> None:
    """Print the rows as a table, with what each must reach."""
    table = Table()
    for heading in ("row", "ours", "baseline", "unit", "ratio", "target", ""):
        table.add_column(heading, no_wrap=True)
    for row in rows:
        target = TARGETS.get(row.name)
        table.add_row(
            row.name,
            f"{row.value:.2f}",
            "" if row.baseline is None else f"{row.baseline:.2f}",
            row.unit,
            "" if row.ratio is None else f"{row.ratio:.2f}×",
            str(target or ""),
            "" if target is None else ("[green]met" if target.is_met(row) else "[red]missed"),
        )
    console.print(table)


def measure_all(names: Sequence[str], *, rounds: int | None) -> int:
    """Measure the named rows, show and store them; return 1 if one could not be measured."""
    console = Console(width=None if sys.stdout.isatty() else 100)
    with console.status("compiling"):
        compile_everything()
    rows: list[Row] = []
    failed: list[str] = []
    for name in names:
        with console.status(name):
            try:
                rows += measure_apart(name, rounds=rounds or ROUNDS[name])
            except subprocess.SubprocessError as error:
                failed.append(name)
                console.print(f"[red]{name} could not be measured: {error}", highlight=False)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("".join(f"{row.to_json()}\n" for row in rows))
    show(rows, console)
    console.print(f"{len(rows)} rows in {RESULTS.relative_to(ROOT)}", highlight=False)
    return 1 if failed else 0


def main() -> int:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--rows", help=f"comma-separated; all are {', '.join(MEASURES)}")
    parser.add_argument(
        "--rounds", type=int, help="turns of the two sides, instead of each row's own"
    )
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        measure = partial(MEASURES[options.alone], options.alone, rounds=options.rounds)
        for row in anyio.run(measure):
            print(row.to_json())
        return 0
    names = options.rows.split(",") if options.rows else list(MEASURES)
    if unknown := set(names) - set(MEASURES):
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    return measure_all(names, rounds=options.rounds)


if __name__ == "__main__":
    sys.exit(main())
