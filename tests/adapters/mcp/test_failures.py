from collections.abc import Iterator

import pytest
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError, ToolError

from ci_tools import CIToolsError, KernelDiedError, LimitError, NotFoundError
from ci_tools_mcp import failures


def subclasses(error: type[CIToolsError]) -> Iterator[type[CIToolsError]]:
    for subclass in error.__subclasses__():
        if subclass.__module__.startswith("ci_tools."):
            yield subclass
            yield from subclasses(subclass)


def test_the_table_has_every_code() -> None:
    codes = {error.code for error in subclasses(CIToolsError)}

    assert codes == set(failures._ADVICE)


def test_a_tool_error_says_what_happened_and_what_to_do() -> None:
    with pytest.raises(ToolError) as caught, failures.tool_errors():
        raise NotFoundError("session", "sess_1")

    assert "'sess_1'" in str(caught.value)
    assert "create_session" in str(caught.value)


def test_a_limit_that_passes_says_when() -> None:
    assert failures.explain(LimitError("Too many.", retry_after=2.4)) == (
        "Too many. Try again in 2 s."
    )


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (NotFoundError("file", "a"), ResourceNotFoundError),
        (KernelDiedError("It died."), ResourceError),
        (ToolError("Still starting."), ResourceError),
    ],
)
def test_resources_have_errors_of_their_own(
    error: Exception, expected: type[ResourceError]
) -> None:
    with pytest.raises(expected), failures.resource_errors():
        raise error
