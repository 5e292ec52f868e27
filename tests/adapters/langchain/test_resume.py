"""A conversation that is interrupted, and goes on in another process."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.langchain.conftest import REAL, serve


def turn(name: str, checkpoints: str, where: str, place: str) -> Any:
    """Run one turn in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.adapters.langchain.conversation"]
        + [name, checkpoints, where, place],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "LANGGRAPH_STRICT_MSGPACK": "true"},
    )
    assert done.returncode == 0, done.stderr
    # A checkpointer must know every type that it loads.
    assert "unregistered" not in done.stderr and "Blocked" not in done.stderr, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(("kernels", "checkpointer"), [("real", "sqlite"), ("fake", "postgresql")])
def test_local_sessions_keep_their_files_in_a_new_process_and_say_that_variables_are_lost(
    tmp_path: Path, kernels: str, checkpointer: str, request: pytest.FixtureRequest
) -> None:
    checkpoints = str(tmp_path / "checkpoints.db")
    if checkpointer == "postgresql":
        checkpoints = request.getfixturevalue("postgresql")
    place = str(tmp_path / "state")

    first = turn("ask", checkpoints, kernels, place)
    second = turn("resume", checkpoints, kernels, place)

    assert (first["content"].splitlines()[0], first["is_waiting"]) == ("41", True)
    assert second["status"] == "error"
    assert "variables lost" in second["content"]
    assert "kept\n" in second["content"]
    assert "NameError" in second["content"]
    [[before, session, epoch], [_, session_after, epoch_after]] = second["steps"]
    assert (before, session) == (first["steps"][0][0], session_after)
    assert epoch_after == epoch + 1


def test_remote_sessions_keep_their_variables_in_a_new_process(tmp_path: Path) -> None:
    checkpoints = str(tmp_path / "checkpoints.db")
    with serve(tmp_path, command=REAL) as (url, token):
        first = turn("ask", checkpoints, url, token)
        second = turn("resume", checkpoints, url, token)

    assert (first["content"].splitlines()[0], first["is_waiting"]) == ("41", True)
    assert second["status"] == "success"
    assert second["content"].split() == ["stdout:", "kept", "result:", "42"]
    assert second["steps"][0][1:] == second["steps"][1][1:]
