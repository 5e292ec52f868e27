"""Run every check of the project, or those named on the command line.

    python tests/run_checks.py              all of them, the tests last
    python tests/run_checks.py lint types   only these

A failed check does not stop the others. The last lines are a summary, and pytest's closing line.
"""

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = sys.executable
BIN = Path(PYTHON).parent

STEP_LIMIT = 40 * 60
"""Seconds after which a check that hangs is ended and counts as failed."""

TEST_LIMIT = 300
"""Seconds after which one hanging test prints every stack and ends its worker."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One named check: what it proves, and how to run it."""

    name: str
    proves: str
    run: Callable[[], bool]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a check went; `seconds` is wall time."""

    check: Check
    passed: bool
    seconds: float


def call(*command: str | Path, env: dict[str, str] | None = None) -> bool:
    """Run a command in the project's root with its output shown; return whether it succeeded."""
    try:
        done = subprocess.run(
            [str(part) for part in command],
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            timeout=STEP_LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        print(f"ended after {STEP_LIMIT} s", flush=True)
        return False
    return done.returncode == 0


closing_line = ""
"""The last line that pytest printed."""


def run_tests() -> bool:
    """Run pytest on every core under coverage, print the coverage, keep the closing line."""
    global closing_line
    for stale in ROOT.glob(".coverage*"):
        stale.unlink()
    command = [
        *(PYTHON, "-m", "coverage", "run", "-m", "pytest"),
        *("-n", str(max(2, os.cpu_count() or 2)), "--dist", "loadfile"),
        *("--durations", "10", "--durations-min", "2"),
        *("-o", f"faulthandler_timeout={TEST_LIMIT}", "-o", "faulthandler_exit_on_timeout=true"),
        "--color=yes" if sys.stdout.isatty() else "--color=no",
    ]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as pytest:
        assert pytest.stdout is not None
        line = b""
        while chunk := os.read(pytest.stdout.fileno(), 65536):
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
            *complete, line = (line + chunk).split(b"\n")
            if filled := [one for one in complete if one.strip()]:
                closing_line = filled[-1].decode(errors="replace")
    covered = print_coverage()
    return pytest.returncode == 0 and covered


def print_coverage() -> bool:
    """Combine what all processes have measured and print it; return whether that worked."""
    broken = [path for path in ROOT.glob(".coverage.*") if not is_whole(path)]
    for path in broken:
        path.unlink()
    if broken:
        print(
            f"Left out: coverage of {len(broken)} processes that tests killed while they wrote it."
        )
    return call(PYTHON, "-m", "coverage", "combine", "--quiet") and call(
        PYTHON, "-m", "coverage", "report"
    )


def is_whole(path: Path) -> bool:
    """Return whether a file holds coverage data, whole; one that does not spoils all others."""
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as data:
            check = data.execute("PRAGMA quick_check").fetchall()
            schema = data.execute("SELECT * FROM coverage_schema").fetchall()
    except sqlite3.Error:
        return False
    return check == [("ok",)] and len(schema) == 1


CHECKS: Sequence[Check] = (
    Check(
        name="format",
        proves="the code is formatted",
        run=lambda: call(BIN / "ruff", "format", "--check", "."),
    ),
    Check(
        name="lint",
        proves="the linter finds nothing",
        run=lambda: call(BIN / "ruff", "check", "."),
    ),
    Check(
        name="types",
        proves="mypy --strict passes, tests included",
        run=lambda: call(BIN / "mypy"),
    ),
    Check(
        name="imports",
        proves="imports point the right way",
        run=lambda: call(BIN / "lint-imports"),
    ),
    Check(
        name="docs",
        proves="the documentation builds strictly",
        run=lambda: call(
            BIN / "mkdocs", "build", "--strict", "--quiet", env={"NO_MKDOCS_2_WARNING": "1"}
        ),
    ),
    Check(
        name="wheel",
        proves="the wheel is complete and works alone, with and without extras",
        run=lambda: call(PYTHON, ROOT / "tests" / "wheel" / "check_wheel.py"),
    ),
    Check(
        name="kernels",
        proves="the environment for kernels can be built (kept in build/ while it is current)",
        run=lambda: call(
            *(BIN / "ci-tools", "kernels", "install"),
            env={"CI_TOOLS_STATE_DIR": str(ROOT / "build"), "CI_TOOLS_KERNEL_PYTHON": ""},
        ),
    ),
    Check(
        name="clients",
        proves="other versions of official clients can be had (kept in build/ while current)",
        run=lambda: call(PYTHON, "-m", "tests.adapters.assistants.clients.environments"),
    ),
    Check(name="tests", proves="the tests pass, under coverage", run=run_tests),
)


def run_check(check: Check, *, number: int, count: int) -> Outcome:
    """Run one check between two lines that say what it is and how it went."""
    print(f"\n[{number}/{count}] {check.name}: {check.proves}", flush=True)
    started = time.monotonic()
    passed = check.run()
    return Outcome(check=check, passed=passed, seconds=time.monotonic() - started)


def main(names: Sequence[str]) -> int:
    """Run the named checks, or all; return the exit code."""
    unknown = set(names) - {check.name for check in CHECKS}
    if unknown:
        print(f"No such check: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    chosen = [check for check in CHECKS if not names or check.name in names]
    outcomes = [
        run_check(check, number=number, count=len(chosen))
        for number, check in enumerate(chosen, start=1)
    ]
    print("\nSummary")
    for outcome in outcomes:
        state = "ok    " if outcome.passed else "FAILED"
        print(f"  {state} {outcome.check.name:<8} {outcome.seconds:6.1f} s  {outcome.check.proves}")
    if closing_line:
        print(f"\n{closing_line}", flush=True)
    return 0 if all(outcome.passed for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
