"""A remote server that the settings name, and where sessions live on it."""

import posixpath
from dataclasses import replace

import anyio

from ci_tools.kernel import FileStat
from ci_tools.paths import MOUNT
from ci_tools.settings import JupyterServerProfile
from ci_tools_jupyter.events import to_digests
from ci_tools_jupyter.greeting import HELLO, MODULE, to_folder
from ci_tools_jupyter.kernel import JupyterKernel
from ci_tools_jupyter.server import JupyterServer, ServerAddress
from ci_tools_jupyter.wire import JsonObject, to_execute_request

ANSWER_TIMEOUT = 2.0
"""Seconds that a kernel has for a question of ours; a busy one is not asked again."""

DIGESTS_KEPT = 10_000
"""Files whose SHA-256 is remembered until somebody asks for it."""


class RemoteServer:
    """A Jupyter Server, Kernel Gateway or Enterprise Gateway by its name in the settings."""

    def __init__(self, name: str, profile: JupyterServerProfile) -> None:
        self.name = name
        self.profile = profile
        self.root: str | None = None
        """The absolute path of the server's root directory, once a kernel has told it."""

        self.mounted: set[str] = set()
        """Sessions whose kernels see their folder at /mnt/data."""

        self._sandboxed = False
        self._digests: dict[FileStat, str] = {}
        self.server = JupyterServer(
            ServerAddress(
                name=f"The Jupyter Server {name!r}",
                url=str(profile.url).rstrip("/") + "/",
                token=profile.token.get_secret_value(),
            )
        )

    def to_folder(self, session_id: str) -> str:
        """Return a session's folder, relative to the server's root."""
        return posixpath.normpath(posixpath.join(self.profile.root, session_id)).strip("/")

    async def serves_files(self) -> bool:
        """Tell whether sessions' files are read by way of the server, and not of their kernels.

        Where kernels are in a sandbox they are not: code there makes links to what it cannot reach,
        and the server would follow them.
        """
        if self._sandboxed or not await self.server.has_contents():
            return False
        self._sandboxed = bool(await self.server.list_sandboxed())
        return not self._sandboxed

    async def to_entry(self, session_id: str) -> str:
        """Return the expression that takes a new Python kernel to the session's folder."""
        if await self.server.has_contents():
            with_hidden = not await self.serves_files()
            return f"__import__({MODULE!r}).stay({with_hidden})"
        folder = posixpath.join(self.profile.root, session_id)
        return f"__import__({MODULE!r}).enter({folder!r})"

    def learn_root(self, session_id: str, folder: str | None) -> bool:
        """Learn from where a kernel is where the root is; False if the kernel is elsewhere."""
        if folder is None:
            return False
        if folder == MOUNT:
            self._sandboxed = True  # in a sandbox, where only this folder is seen
            self.mounted.add(session_id)
            return True
        end = "/" + self.to_folder(session_id)
        found = folder.replace("\\", "/")
        if not found.endswith(end):
            return False
        self.mounted.discard(session_id)
        self.root = found.removesuffix(end) or "/"
        return True

    def learn_digests(self, reply: JsonObject) -> None:
        """Keep what a kernel's reply says about changed files, for `find_digest`."""
        self._digests |= to_digests(reply)
        while len(self._digests) > DIGESTS_KEPT:
            del self._digests[next(iter(self._digests))]

    def find_digest(self, place: str, stat: FileStat) -> str | None:
        """Return the SHA-256 of the file at an absolute path, if a kernel told it."""
        return self._digests.get(replace(stat, path=place))

    async def ask_root(self, kernel: JupyterKernel) -> None:
        """Learn where the root is from a kernel that was started before us, if it is idle."""
        folder = await ask(kernel, HELLO)
        if folder == MOUNT:
            self._sandboxed = True
        elif folder is not None:
            parts = folder.replace("\\", "/").split("/")
            depth = len(self.to_folder("x").split("/"))
            self.root = "/".join(parts[:-depth]) or "/"


async def ask(
    kernel: JupyterKernel, expression: str, *, timeout: float = ANSWER_TIMEOUT
) -> str | None:
    """Evaluate an expression that tells a folder; None if the kernel is busy or cannot."""
    request = to_execute_request("", id="", sender="", expressions={"it": expression}, silent=True)
    with anyio.move_on_after(timeout):
        for message in await kernel.inquire("execute_request", dict(request.content)):
            if message.type == "execute_reply":
                return to_folder(message.content)
    return None
