import sys
from pathlib import Path

import pytest

from tests.adapters.server.processes import REAL, run, serving

EXAMPLES = Path(__file__).parents[3] / "examples"


async def test_the_stdio_example_runs(tmp_path: Path) -> None:
    code, out, errors = await run(
        tmp_path, command=[sys.executable, str(EXAMPLES / "mcp_stdio.py")]
    )

    assert code == 0, errors
    assert "\n42" in out
    assert "ZeroDivisionError" in out


async def test_the_http_example_runs(tmp_path: Path) -> None:
    example = [sys.executable, str(EXAMPLES / "mcp_http.py")]
    async with serving(tmp_path, command=REAL) as served:
        code, out, errors = await run(
            tmp_path, served.url, command=example, CI_TOOLS_TOKEN=served.token
        )

    assert code == 0, errors
    assert str(sum(range(400_000))) in out


async def test_the_library_example_runs(tmp_path: Path) -> None:
    code, out, errors = await run(tmp_path, command=[sys.executable, str(EXAMPLES / "library.py")])

    assert code == 0, errors
    assert out.splitlines()[:5] == ["completed ['total.txt']", "0 6", "1 6", "2 6", "6"]


@pytest.mark.parametrize("name", ["mcp_stdio.py", "mcp_http.py", "library.py", "data/README.md"])
def test_the_readme_names_every_example(name: str) -> None:
    assert f"({name})" in (EXAMPLES / "README.md").read_text()
