"""What importing the tools brings with it."""

import subprocess
import sys

import pytest

import langchain_ci_tools


def loaded(code: str) -> set[str]:
    """Return the modules that code loads in a process of its own."""
    program = f"import sys; {code}; print(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    return set(done.stdout.split())


def test_the_package_alone_loads_nothing() -> None:
    assert not {"langchain_core", "ci_tools", "pydantic"} & loaded("import langchain_ci_tools")


def test_the_tools_need_only_langchain_core_and_no_service() -> None:
    modules = loaded("from langchain_ci_tools import CodeInterpreterToolkit, RunCodeTool")

    assert "langchain_core.tools.base" in modules
    assert (
        not {
            *("langchain", "langgraph", "deepagents", "langchain_core.language_models.chat_models"),
            *(
                "ci_tools.service",
                "ci_tools.settings",
                "sqlalchemy",
                "pydantic_settings",
                "obstore",
            ),
            *("ci_tools_client", "ci_tools_jupyter", "mcp", "starlette"),
        }
        & modules
    )


@pytest.mark.parametrize("name", langchain_ci_tools.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(langchain_ci_tools, name) is not None


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="execute"):
        _ = langchain_ci_tools.execute
