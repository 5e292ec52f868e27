import csv
import json
import sys
from pathlib import Path

import anyio
import nbformat
import pytest

from ci_tools_server.demo import find_data
from tests.adapters.server.processes import REAL, environment, run


async def test_the_demo_analyses_fails_recovers_and_leaves_its_results(tmp_path: Path) -> None:
    code, out, errors = await run(tmp_path, "demo", command=REAL)

    assert (code, errors) == (0, "")
    assert "Isolation: namespaces" in out
    assert "1990 to 2000: 1.52 ppm a year" in out
    assert "TypeError" in out
    assert "progress:" in out
    assert (tmp_path / "mauna_loa_co2.png").read_bytes().startswith(b"\x89PNG")
    notebook = nbformat.read(tmp_path / "mauna_loa_co2.ipynb", as_version=4)  # type: ignore[no-untyped-call]
    nbformat.validate(notebook)
    assert [cell.cell_type for cell in notebook.cells] == ["markdown", *["markdown", "code"] * 5]
    assert "\r" not in json.dumps([cell.outputs for cell in notebook.cells[2::2]])
    assert "progress: 2,284 weeks" not in out
    assert not Path(environment(tmp_path)["CI_TOOLS_STATE_DIR"]).exists()
    (tmp_path / "mauna_loa_co2.png").unlink()
    command = [sys.executable, "-m", "jupyter", "execute", str(tmp_path / "mauna_loa_co2.ipynb")]
    with anyio.fail_after(120):
        await anyio.run_process(command, cwd=tmp_path)  # it reads the data that are beside it
    assert (tmp_path / "mauna_loa_co2.png").exists()


async def test_the_demo_of_the_assistants_api_is_one_session_on_two_faces(tmp_path: Path) -> None:
    code, out, errors = await run(tmp_path, "demo", "--assistants", command=REAL, limit=180)

    assert (code, errors) == (0, "")
    assert "A script of the demo stands for the model" in out
    assert "1990 to 2000: 1.52 ppm a year" in out
    assert "1.52 ppm a year from 1990 to 2000" in " ".join(out.split())
    assert (tmp_path / "mauna_loa_co2.png").read_bytes().startswith(b"\x89PNG")
    assert "2,284 weeks are still in memory" in out.rpartition("over MCP")[2]


async def test_without_its_libraries_the_demo_says_what_to_install(tmp_path: Path) -> None:
    hide = (
        "import sys; sys.modules['pandas'] = None\n"
        "from ci_tools_server.__main__ import main; sys.argv = ['ci-tools', 'demo']; main()"
    )

    code, _, errors = await run(tmp_path, command=[sys.executable, "-c", hide])

    assert code == 1
    assert errors.count("\n") == 1
    assert "pip install" in errors


async def test_a_place_that_is_none_is_named(tmp_path: Path) -> None:
    code, _, errors = await run(tmp_path, "demo", "--directory", "nowhere", command=REAL)

    assert (code, errors) == (
        1,
        "ci-tools: nowhere is no directory: the results cannot be written.\n",
    )


def test_the_data_are_whole() -> None:
    with find_data().open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))

    assert len(rows) == 2284
    assert sum(bool(row["co2"]) for row in rows) == 2225
    assert (rows[0], rows[-1]) == (
        {"date": "19580329", "co2": "316.1"},
        {"date": "20011229", "co2": "371.5"},
    )


@pytest.mark.parametrize("word", ["Keeling", "CDIAC", "public domain"])
def test_the_data_come_with_source_and_licence(word: str) -> None:
    readme = Path(__file__).parents[3] / "examples" / "data" / "README.md"

    assert word in readme.read_text()
