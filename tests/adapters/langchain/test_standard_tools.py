"""LangChain's standard tests, of both kinds, for every tool, local and remote."""

from typing import Any

import pytest
from langchain_core.tools import BaseTool
from langchain_tests.integration_tests import ToolsIntegrationTests
from langchain_tests.unit_tests import ToolsUnitTests

from langchain_ci_tools import (
    CodeInterpreterToolkit,
    GetRunStepTool,
    ListFilesTool,
    ListRunStepsTool,
    ReadFileTool,
    RunCodeTool,
    RunCommandTool,
    UploadFileTool,
)

EXAMPLES: dict[type[BaseTool], dict[str, Any]] = {
    RunCodeTool: {"code": "1 + 1"},
    RunCommandTool: {"command": "echo hello", "timeout_s": 5},
    UploadFileTool: {"path": "b.txt", "content": "text"},
    ListFilesTool: {"pattern": "*.txt"},
    ReadFileTool: {"path": "a.txt"},
    ListRunStepsTool: {"limit": 5},
    GetRunStepTool: {},
}
"""A call of each tool; the id of a step is filled in."""


class _Given:
    """What the tests ask for: a tool and a call of it."""

    tool_constructor: type[BaseTool]

    @pytest.fixture(autouse=True)
    def prepare(self, toolkit: CodeInterpreterToolkit) -> None:
        toolkit.upload_file("a.txt", "text")
        toolkit.get_tools("run_code")[0].invoke({"code": "1 + 1"})
        steps = toolkit.get_tools("list_run_steps")[0].invoke({"limit": 1})
        self.step_id = str(steps).split()[0]
        self.toolkit = toolkit

    @property
    def tool_constructor_params(self) -> dict[str, Any]:
        return {"access": self.toolkit.access}

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return EXAMPLES[self.tool_constructor] or {"step_id": self.step_id}


for tool in EXAMPLES:
    for tests in (ToolsUnitTests, ToolsIntegrationTests):
        name = f"Test{tool.__name__}{tests.__name__}"
        globals()[name] = type(name, (_Given, tests), {"tool_constructor": tool})
