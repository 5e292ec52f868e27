"""Official clients that need an environment of their own: the last of version 1, and Node's."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.adapters.assistants.clients.environments import HERE, node, old_python
from tests.adapters.assistants.clients.scripts import run_script
from tests.adapters.assistants.clients.serving import KEY, Served


def test_the_last_python_client_of_version_1(checked: Served, tmp_path: Path) -> None:
    out = run_script(HERE / "old_client.py", tmp_path, old_python(), checked.variables)

    assert out == "all is well\n"


@pytest.mark.parametrize("script", ["walk.mjs", "streams.mjs"])
def test_the_newest_node_client(checked: Served, tmp_path: Path, script: str) -> None:
    path = HERE / "node_newest" / script

    out = run_script(path, tmp_path, node("newest"), checked.variables)

    assert out == "all is well\n"


def test_the_newest_node_client_as_it_speaks_to_azure(checked: Served, tmp_path: Path) -> None:
    azure = replace(node("newest"), arguments=("azure",))
    variables = {"AZURE_OPENAI_API_KEY": KEY, "AZURE_ROOT": checked.root}

    out = run_script(HERE / "node_newest" / "walk.mjs", tmp_path, azure, variables)

    assert out == "all is well\n"


def test_the_last_node_client_with_positional_calls(checked: Served, tmp_path: Path) -> None:
    path = HERE / "node_newest" / "streams.mjs"

    out = run_script(path, tmp_path, node("4"), checked.variables)

    assert out == "all is well\n"
