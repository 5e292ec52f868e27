"""Runs the Python samples in the current folder one after the other, as they stand.

It prints what became of each as JSON: the name of its file, and its traceback or null. It needs
nothing but the client of the samples, so every version of that client can run it.
"""

import contextlib
import io
import json
import traceback
from pathlib import Path


def run(path: Path) -> str | None:
    """Run a sample; return its traceback, or None if it came to its end."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(path.read_text(encoding="utf-8"), path.name, "exec"), {})
    except Exception:  # noqa: BLE001 - whatever a sample raises is told
        return traceback.format_exc()
    return None


if __name__ == "__main__":
    samples = [path for path in sorted(Path().glob("*.py")) if path.name != Path(__file__).name]
    print(json.dumps({path.name: run(path) for path in samples}))
