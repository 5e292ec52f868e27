"""The whole way: an MCP client, the service, an embedded Jupyter Server and a real kernel."""

import json
from functools import partial

import anyio
import nbformat
from mcp import Client
from mcp.types import TextResourceContents

from ci_tools import Settings, open_service
from ci_tools_mcp import create_server
from ci_tools_mcp.uris import notebook_uri
from tests.adapters.mcp.servers import body_of, call, images_of, session_of, structured, text_of

PLOT = "import matplotlib.pyplot as plt\nplt.plot([1, 4, 9])\nplt.savefig('plot.png');"


async def test_a_client_computes_plots_fails_and_recovers(settings: Settings) -> None:
    server = create_server(partial(open_service, settings), default_session=True)
    with anyio.fail_after(120):
        async with Client(server) as client:
            await structured(client, "upload_file", path="a.csv", content="x\n1\n2\n")
            total = await call(
                client,
                "run_code",
                code="import csv\nsum(int(row['x']) for row in csv.DictReader(open('a.csv')))",
            )
            plot = await call(client, "run_code", code=PLOT)
            failed = await call(client, "run_code", code="undefined")
            session_id = session_of(total)
            picture = await call(client, "read_file", path="plot.png")
            contents = (await client.read_resource(notebook_uri(session_id))).contents[0]

    assert body_of(total).endswith("3")
    assert len(images_of(plot)) == 1
    assert "- created plot.png" in text_of(plot)
    assert len(images_of(picture)) == 1
    assert failed.is_error
    assert "NameError" in text_of(failed)
    assert isinstance(contents, TextResourceContents)
    notebook = json.loads(contents.text)
    nbformat.validate(notebook)
    assert [len(cell["outputs"]) for cell in notebook["cells"]] == [1, 1, 1]
    assert notebook["metadata"]["language_info"]["name"] == "python"
