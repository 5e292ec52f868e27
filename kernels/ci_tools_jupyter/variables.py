"""The variables of a Python kernel, asked for between executions without a trace in its history."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

import ci_tools.variables
from ci_tools.errors import BackendError
from ci_tools.models import Variable
from ci_tools_jupyter.wire import JsonObject, to_execute_request

if TYPE_CHECKING:
    from ci_tools_jupyter.kernel import JupyterKernel

MODULE = "_ci_tools_variables"

MEDIA_TYPE = "application/vnd.ci-tools.variables+json"

ANSWER_TIMEOUT = 5.0
"""Seconds that a kernel has to list its variables."""

_ANSWER = """

class Answer:
    def _repr_mimebundle_(self, **kwargs):
        from IPython import get_ipython

        shell = get_ipython()
        return {MEDIA_TYPE: list_variables(shell.user_ns, shell.user_ns_hidden)}
"""

_EXPRESSION = f"__import__({MODULE!r}).Answer()"


async def list_variables(kernel: "JupyterKernel") -> Sequence[Variable]:
    """List the variables of an idle kernel, sorted by name.

    Raises:
        BackendError: It is no Python kernel, or does not answer.
    """
    if kernel.ref.language != "python":
        raise BackendError(
            "Variables are listed for Python kernels only; this kernel runs "
            f"{kernel.ref.language or 'another language'}."
        )
    # The code goes along every time: the kernel may be one that others have started.
    request = to_execute_request(
        _install(), id="", sender="", expressions={"it": _EXPRESSION}, silent=True
    )
    with anyio.move_on_after(ANSWER_TIMEOUT):
        for message in await kernel.inquire("execute_request", dict(request.content)):
            if message.type == "execute_reply":
                return to_variables(message.content)
    raise BackendError("The kernel does not answer; interrupt it, or restart the session.")


def to_variables(reply: JsonObject) -> Sequence[Variable]:
    """Read a kernel's reply, which user code may have forged.

    Raises:
        BackendError: It holds no list of variables.
    """
    rows: Any = None
    match reply.get("user_expressions"):
        case {"it": {"status": "ok", "data": dict(data)}}:
            rows = data.get(MEDIA_TYPE)
    if not isinstance(rows, list):
        raise BackendError("The kernel did not list its variables; restart the session.")
    found = []
    for row in rows[: ci_tools.variables.COUNT]:
        match row:
            case [str(name), str(kind), str(detail)]:
                cut = [text[: ci_tools.variables.LENGTH] for text in (name, kind, detail)]
                found.append(Variable(name=cut[0], type=cut[1], detail=cut[2]))
    return found


def _install() -> str:
    source = Path(ci_tools.variables.__file__).read_text(encoding="utf-8")
    whole = f"{source}{_ANSWER}".replace("{MEDIA_TYPE:", f"{{{MEDIA_TYPE!r}:")
    return (
        f"exec({whole!r}, __import__('sys').modules.setdefault({MODULE!r},"
        f" __import__('types').ModuleType({MODULE!r})).__dict__)"
    )
