"""LangChain's two adapters for MCP against our MCP server."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.adapters.assistants.clients.environments import (
    Environment,
    install_packages,
    python_with,
)
from tests.adapters.langchain.conftest import serve
from tests.adapters.server.processes import FAKE, environment

HERE = Path(__file__).parent


def run(script: str, python: Environment, target: dict[str, Any]) -> Any:
    """Run a script in an environment; return what it prints."""
    done = subprocess.run(
        [*python.command, str(HERE / script), json.dumps(target)],
        env={**os.environ, **python.variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_langchain_mcp_adapters_work_over_stdio(tmp_path: Path) -> None:
    program, *arguments = FAKE
    target = {
        "transport": "stdio",
        "command": program,
        "args": [*arguments, "mcp"],
        "env": environment(tmp_path),
    }
    python = python_with("mcp-adapters", HERE / "requirements-mcp-adapters.txt")

    result = run("through_mcp_adapters.py", python, target)

    assert "run_code" in result["tools"]
    assert "42" in result["text"]


def test_langchains_own_adapter_works_over_http(tmp_path: Path) -> None:
    """It needs no other environment than the tests', but packages that these do not."""
    folder = install_packages("langchain-mcp", HERE / "requirements-langchain-mcp.txt", "--no-deps")
    python = Environment(
        command=(sys.executable,), variables={"PYTHONPATH": str(folder)}, modules=folder
    )
    with serve(tmp_path) as (url, token):
        target = {"url": f"{url}/mcp", "headers": {"Authorization": f"Bearer {token}"}}
        result = run("through_langchain_mcp.py", python, target)

    assert "run_code" in result["tools"]
    assert "42" in result["text"]
