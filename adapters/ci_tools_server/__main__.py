"""The `ci-tools` command."""

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


def main() -> None:
    """Run the command; an error of ours is one line on stderr and exit code 1."""
    arguments = sys.argv[1:]
    try:
        if arguments[:1] == ["mcp"]:
            # Past typer and everything that the other commands need: see stdio.py.
            from ci_tools_server.stdio import run_command

            run_command(arguments[1:], token=os.environ.get("CI_TOOLS_TOKEN", ""))
        else:
            from ci_tools_server.commands import application

            application(prog_name="ci-tools")
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # noqa: BLE001 - outermost handler: sorts ours from bugs
        sys.exit(_explain(error))


def _explain(error: Exception) -> str:
    """Return the one line for an expected error; raise everything else again."""
    from pydantic import ValidationError

    from ci_tools import CIToolsError

    if isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        inner = error.exceptions[0]
        if isinstance(inner, Exception):
            return _explain(inner)
    if isinstance(error, CIToolsError):
        return f"ci-tools: {error}"
    if isinstance(error, ValidationError):
        return "\n".join(_explain_setting(problem) for problem in error.errors())
    raise error


def _explain_setting(problem: "ErrorDetails") -> str:
    name, *keys = [str(part) for part in problem["loc"]] or [""]
    text = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        text = "There is no such key; docs/configuration.md and docs/models.md name them all."
    if not name:
        return f"ci-tools: {text}"
    inside = f", {' → '.join(keys)}" if keys else ""
    # Never the value: it may be a token.
    return f"ci-tools: setting CI_TOOLS_{name.upper()}{inside}: {text}"


if __name__ == "__main__":
    main()
