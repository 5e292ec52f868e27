"""The protocol's own conformance suite against our app: with fixtures, and as users get it.

https://www.npmjs.com/package/@modelcontextprotocol/conformance
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ci_tools import Settings, open_service
from ci_tools.testing import FakeBackend
from ci_tools_mcp import create_server
from ci_tools_server import create_app
from tests.conformance.fixtures import add_fixtures
from tests.conformance.suite import run_suite, serve

pytestmark = pytest.mark.conformance

WITHOUT_FIXTURES = {
    "2025-11-25": [
        "server-initialize",
        "server-session-lifecycle",
        "ping",
        "completion-complete",
        "tools-list",
        "resources-list",
        "prompts-list",
        "server-sse-multiple-streams",
        "dns-rebinding-protection",
    ],
    "2026-07-28": [
        "completion-complete",
        "tools-list",
        "resources-list",
        "prompts-list",
        "sep-2164-resource-not-found",
        "dns-rebinding-protection",
        "caching",
        "server-sse-multiple-streams",
        "http-header-validation",
        "input-required-result-unsupported-methods",
    ],
}
"""Scenarios that need nothing from a server but that it is one."""


def make_settings(folder: Path) -> Settings:
    return Settings(state_dir=folder / "state", auth="none")


@pytest.fixture
def fixtures_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Our app with the suite's fixtures added to its MCP server."""

    def create_server_with_fixtures(*args: Any, **kwargs: Any) -> Any:
        server = create_server(*args, **kwargs)
        add_fixtures(server)
        return server

    monkeypatch.setattr("ci_tools_server.app.create_server", create_server_with_fixtures)
    with serve_app(tmp_path) as url:
        yield url


@pytest.fixture(scope="module")
def real_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Our app as it is, on loopback without auth."""
    with serve_app(tmp_path_factory.mktemp("real")) as url:
        yield url


def serve_app(folder: Path) -> Any:
    settings = make_settings(folder)
    backend = FakeBackend(folder / "folders")
    app = create_app(settings, open_service=partial(open_service, settings, backend=backend))
    return serve(app)


@pytest.mark.parametrize("revision", ["2026-07-28", "2025-11-25"])
def test_the_required_scenarios_of_a_revision_pass(
    fixtures_url: str, suite: list[str], tmp_path: Path, revision: str
) -> None:
    out = str(tmp_path / "results")

    process = run_suite(
        suite, "--url", f"{fixtures_url}/mcp", "--requirements", revision, "-o", out
    )

    assert process.returncode == 0, process.stdout + process.stderr


@pytest.mark.parametrize(
    ("revision", "scenario"),
    [(revision, name) for revision, names in WITHOUT_FIXTURES.items() for name in names],
)
def test_a_scenario_passes_without_fixtures(
    real_url: str, suite: list[str], tmp_path: Path, revision: str, scenario: str
) -> None:
    arguments = ["--url", f"{real_url}/mcp", "--scenario", scenario, "--spec-version", revision]

    process = run_suite(suite, *arguments, "-o", str(tmp_path / "results"))

    assert process.returncode == 0, process.stdout + process.stderr
