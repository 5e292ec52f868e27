"""LangChain tools, agent middleware and a deepagents backend over one live session.

Start with `CodeInterpreterToolkit`. What needs more than langchain-core loads when it is named:
`CodeInterpreterMiddleware` (langchain and langgraph), `SessionSandbox` (deepagents).
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from langchain_ci_tools.artifacts import to_step
    from langchain_ci_tools.file_tools import ListFilesTool, ReadFileTool, UploadFileTool
    from langchain_ci_tools.images import Images, place_images
    from langchain_ci_tools.middleware import CodeInterpreterMiddleware
    from langchain_ci_tools.run_tools import (
        GetRunStepTool,
        ListRunStepsTool,
        RunCodeTool,
        RunCommandTool,
    )
    from langchain_ci_tools.sandbox import SessionSandbox
    from langchain_ci_tools.toolkit import CodeInterpreterToolkit

__all__ = [
    "CodeInterpreterMiddleware",
    "CodeInterpreterToolkit",
    "GetRunStepTool",
    "Images",
    "ListFilesTool",
    "ListRunStepsTool",
    "ReadFileTool",
    "RunCodeTool",
    "RunCommandTool",
    "SessionSandbox",
    "UploadFileTool",
    "place_images",
    "to_step",
]

_MODULES = {
    "CodeInterpreterMiddleware": "middleware",
    "CodeInterpreterToolkit": "toolkit",
    "GetRunStepTool": "run_tools",
    "Images": "images",
    "ListFilesTool": "file_tools",
    "ListRunStepsTool": "run_tools",
    "ReadFileTool": "file_tools",
    "RunCodeTool": "run_tools",
    "RunCommandTool": "run_tools",
    "SessionSandbox": "sandbox",
    "UploadFileTool": "file_tools",
    "place_images": "images",
    "to_step": "artifacts",
}
"""Where the names are."""


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
