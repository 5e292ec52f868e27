"""The demo's notebook for readers: a title, the source of the data, and a heading for each step."""

import json
from typing import Any

from ci_tools_server.demo.analysis import DATA, MOVES

_TITLE = f"""\
# Carbon dioxide at Mauna Loa

Weekly means from 1958 to 2001 in `{DATA}`, which is beside this notebook: C. D. Keeling and
T. P. Whorf, *Atmospheric CO2 concentrations derived from flask air samples at sites in the SIO
network* (CDIAC, 2004), public domain.

Made by `ci-tools demo` from the steps of a session. One step fails on purpose; running all
cells goes on after it."""


def add_headings(data: bytes) -> bytes:
    """Return the notebook of the session with Markdown between the steps."""
    notebook: dict[str, Any] = json.loads(data)
    cells: list[dict[str, Any]] = [_markdown("title", _TITLE)]
    moves = iter(enumerate(MOVES, 1))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code" and (move := next(moves, None)) is not None:
            number, step = move
            cells.append(_markdown(f"heading-{number}", f"## {number}. {step.title}"))
            if step.fails:
                # Programs that run the notebook go on after it, as the session did.
                cell["metadata"]["tags"] = ["raises-exception"]
        cells.append(cell)
    notebook["cells"] = cells
    return (json.dumps(notebook, indent=1, ensure_ascii=False) + "\n").encode()


def _markdown(id: str, source: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "id": id, "metadata": {}, "source": source}
