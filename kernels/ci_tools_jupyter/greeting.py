"""The first words to a new kernel: who it is, where it is, and what helps us inside it."""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from uuid import uuid4

from websockets.exceptions import ConnectionClosed

from ci_tools.errors import KernelStartError
from ci_tools_jupyter.channels import Channels
from ci_tools_jupyter.events import FILES_MEDIA_TYPE
from ci_tools_jupyter.wire import (
    JsonObject,
    Message,
    Request,
    decode,
    encode,
    to_execute_request,
)

MODULE = "_ci_tools"

OUTPUT = "_ci_tools_output"
"""How the modules are called that kernels are greeted with."""

SANDBOXES = "ci_tools_kernels"
"""Where the source of the second is; it is found, and not imported."""

FOLDER = "__import__('os').getcwd()"
"""The expression that tells a kernel's working directory."""

PLACE = (
    "(lambda os: (lambda at, found: f'{at} {found.st_dev} {found.st_ino}')"
    "(os.getcwd(), os.stat('.')))(__import__('os'))"
)
"""The expression that also tells which folder of this machine that is, in a sandbox.

Not by its path: another folder may have been mounted there since the kernel went into this one."""

NOTHING = "pass"
"""Code that does nothing, and yet is run: with no code at all, a sandbox notices nothing."""

FILES = f"__import__({MODULE!r}).files()"
"""The expression that lists the session's files, in a kernel that was greeted with a module."""

HELLO = f"__import__({MODULE!r}).hello()"
"""The expression that tells the session's folder, in a kernel that was greeted with a module."""

REMOVE = f"__import__({MODULE!r}).remove()"
"""The expression that deletes the session's folder, in a kernel that was greeted with a module."""


@dataclass(frozen=True, kw_only=True)
class Greeting:
    """What a new kernel has answered."""

    signature: str
    """The `session` of its messages; another process of the same kernel id has another one."""

    folder: str | None
    """Its working directory; None if its language is not Python."""


async def greet(channels: Channels, channel_id: str, *, code: str, expression: str) -> Greeting:
    """Run `code` silently in a Python kernel, then `expression`, which tells its folder.

    From then on output does not fill memory there while it waits to be sent.

    Raises:
        KernelStartError: It ended, or could not run the code.
    """
    if code != NOTHING:
        code = f"{_bound_output()}\n{code}"
    request = to_execute_request(
        code, id=uuid4().hex, sender=channel_id, expressions={"it": expression}, silent=True
    )
    reply = await _ask(channels, request)
    if reply.content.get("status") != "ok":
        raise KernelStartError(
            f"The kernel could not be prepared ({reply.content.get('ename', 'no reason given')})."
        )
    return Greeting(signature=reply.sender, folder=to_folder(reply.content))


async def greet_any(channels: Channels, channel_id: str) -> Greeting:
    """Wait until a kernel of any language answers.

    Raises:
        KernelStartError: It ended.
    """
    request = Request(
        channel="shell", id=uuid4().hex, type="kernel_info_request", sender=channel_id
    )
    reply = await _ask(channels, request)
    return Greeting(signature=reply.sender, folder=None)


def install_module() -> str:
    """Return Python code that installs our module in a kernel without touching its variables."""
    return _install(MODULE, Path(__file__).with_name("kernel_side.py"))


@cache
def _bound_output() -> str:
    """Return Python code that does in a kernel elsewhere what a sandbox does in its own."""
    found = find_spec(SANDBOXES)
    assert found is not None and found.origin is not None
    source = Path(found.origin).with_name("inside") / "output.py"
    return _install(OUTPUT, source) + f"\n__import__({OUTPUT!r}).install()"


def _install(module: str, path: Path) -> str:
    source = path.read_text(encoding="utf-8")
    return (
        f"exec({source!r}, __import__('sys').modules.setdefault({module!r},"
        f" __import__('types').ModuleType({module!r})).__dict__)"
    )


def set_variables(environment: Mapping[str, str]) -> str:
    """Return Python code that sets variables of the kernel's process, to follow other code."""
    return f"\n__import__('os').environ.update({dict(environment)!r})" if environment else ""


def to_place(seen_as: str, folder: Path) -> str:
    """Return what `PLACE` tells in a kernel where `folder` has the path `seen_as`."""
    found = folder.stat()
    return f"{seen_as} {found.st_dev} {found.st_ino}"


def to_folder(reply: JsonObject) -> str | None:
    """Return the folder that an evaluated expression tells."""
    match reply.get("user_expressions"):
        case {"it": {"status": "ok", "data": dict(data)}}:
            match data.get(FILES_MEDIA_TYPE), data.get("text/plain"):
                case [str(folder)], _:
                    return folder
                case None, str(text):
                    return _to_string(text)
    return None


def _to_string(text: str) -> str | None:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None
    return value if isinstance(value, str) else None


async def _ask(channels: Channels, request: Request) -> Message:
    """Send a request and return its reply, once the kernel is idle again."""
    reply: Message | None = None
    idle = False
    try:
        await channels.send(encode(request, channels.subprotocol))
        while reply is None or not idle:
            message = decode(await channels.recv(), channels.subprotocol).to_message()
            if message.type == "status":
                state = message.content.get("execution_state")
                if message.parent_id == request.id and state == "idle":
                    idle = True
                elif state in ("restarting", "dead"):
                    raise KernelStartError("The kernel ended while it started.")
            elif message.parent_id == request.id and message.channel == "shell":
                reply = message
    except ConnectionClosed as exc:
        raise KernelStartError("The connection to the kernel was lost while it started.") from exc
    return reply
