"""Toolkits of both kinds: over a service in this process, and over a shared one behind HTTP."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, TypeAlias

import pytest
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool

from ci_tools import Settings
from ci_tools.testing import FakeBackend
from langchain_ci_tools import CodeInterpreterToolkit
from tests.adapters.langchain.scripted import ScriptedModel
from tests.adapters.server.processes import FAKE, environment

Kind: TypeAlias = Literal["local", "remote"]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", params=["local", "remote"])
def toolkit(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[CodeInterpreterToolkit]:
    """A toolkit with the fake backend, of both kinds; tests use threads of their own."""
    folder = tmp_path_factory.mktemp("toolkit")
    if request.param == "local":
        settings = Settings(state_dir=folder / "state", interrupt_grace=1)
        with CodeInterpreterToolkit.local(
            settings, backend=FakeBackend(folder / "folders")
        ) as toolkit:
            yield toolkit
    else:
        with serve(folder) as (url, token), CodeInterpreterToolkit.connect(url, token) as toolkit:
            yield toolkit


@pytest.fixture
def local(tmp_path: Path) -> Iterator[CodeInterpreterToolkit]:
    """A toolkit of a test's own, with the fake backend in this process."""
    settings = Settings(state_dir=tmp_path / "state", interrupt_grace=1)
    with CodeInterpreterToolkit.local(settings, backend=FakeBackend(tmp_path / "folders")) as made:
        yield made


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CodeInterpreterToolkit]:
    """A toolkit whose code runs in real kernels, in their sandbox where there is one."""
    settings = Settings(state_dir=tmp_path_factory.mktemp("state"), interrupt_grace=5)
    with CodeInterpreterToolkit.local(settings) as toolkit:
        yield toolkit


@pytest.fixture(scope="module")
def real_remote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CodeInterpreterToolkit]:
    """A toolkit whose code runs in real kernels of a `ci-tools serve`."""
    with (
        serve(tmp_path_factory.mktemp("serve"), command=REAL) as (url, token),
        CodeInterpreterToolkit.connect(url, token) as toolkit,
    ):
        yield toolkit


@pytest.fixture
def config(request: pytest.FixtureRequest) -> RunnableConfig:
    """The configuration of a thread of the test's own."""
    return {"configurable": {"thread_id": request.node.nodeid}}


@pytest.fixture
def find_tool(toolkit: CodeInterpreterToolkit) -> Callable[[str], BaseTool]:
    tools = {tool.name: tool for tool in toolkit.get_tools()}
    return tools.__getitem__


class _Serving:
    """A running `ci-tools serve`: enter for its URL and a token."""

    def __init__(
        self, folder: Path, command: tuple[str, ...], port: int, more: dict[str, str]
    ) -> None:
        self._process = subprocess.Popen(
            [*command, "serve", "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(folder, **more),
        )

    def __enter__(self) -> tuple[str, str]:
        assert self._process.stderr is not None
        text = ""
        for line in self._process.stderr:
            text += line
            if found := re.search(r"listening on .*?(http://[\w.:\[\]]+)", line):
                token = re.search(r"cit_[\w-]+", text)
                return found[1], token[0] if token else ""
        raise AssertionError(text)

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.communicate(timeout=30)


def serve(folder: Path, *, command: tuple[str, ...] = FAKE, port: int = 0, **more: str) -> _Serving:
    """Run `ci-tools serve` on a free port, with the fake backend if nothing else is said."""
    return _Serving(folder, command, port, more)


REAL = (sys.executable, "-m", "ci_tools_server")
"""The command with real kernels."""


@pytest.fixture
def model() -> ScriptedModel:
    return ScriptedModel()
