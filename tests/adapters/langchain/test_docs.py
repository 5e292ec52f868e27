"""The page on LangChain: its cells run, one after another, as in a notebook."""

import ast
import inspect
import re
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

import langchain_ci_tools
from tests.adapters.langchain.scripted import VISION, ScriptedModel, call

PAGE = (Path(__file__).parents[3] / "docs" / "langchain.md").read_text(encoding="utf-8")

PLOT = (
    "import pandas as pd\npd.read_csv('co2.csv').plot(x='year', y='co2').figure.savefig('plot.png')"
)


async def run(cell: str, namespace: dict[str, Any]) -> object:
    """Run a cell, with `await` wherever; return the value of its last expression."""
    tree = ast.parse(cell)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    await _evaluate(compile(tree, "<cell>", "exec", flags=flags), namespace)
    if not isinstance(last, ast.Expr):
        return None
    return await _evaluate(
        compile(ast.Expression(last.value), "<cell>", "eval", flags=flags), namespace
    )


async def _evaluate(code: CodeType, namespace: dict[str, Any]) -> object:
    value = eval(code, namespace)
    return await value if inspect.isawaitable(value) else value


async def test_every_cell_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ScriptedModel(profile=VISION)
    model.script = [
        call("run_code", code=PLOT),
        "It is in plot.png.",
        call("run_code", code="print('live')"),
        "Printed.",
    ]
    monkeypatch.setenv("CI_TOOLS_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr("langchain.chat_models.init_chat_model", lambda name: model)
    cells = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    namespace: dict[str, Any] = {}

    try:
        values = [await run(cell, namespace) for cell in cells]
    finally:
        if toolkit := namespace.get("toolkit"):
            toolkit.close()

    assert "21" in values
    assert ("error", "failed", "code_error") in values
    assert "It is in plot.png." in values
    assert namespace["made"] == ["co2.csv", "plot.png"]
    assert namespace["plot"].startswith(b"\x89PNG")
    assert "live" in capsys.readouterr().out
    assert namespace["toolkit"].connection.closed


def test_every_tool_is_on_the_page_and_no_other() -> None:
    documented = set(re.findall(r"^\| `([a-z_]+)` \|", PAGE, re.MULTILINE))
    tools = {
        getattr(langchain_ci_tools, name).model_fields["name"].default
        for name in langchain_ci_tools.__all__
        if name.endswith("Tool")
    }

    assert documented == tools
