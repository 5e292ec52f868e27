"""Which session a call belongs to: one for each thread of conversation, found again by its name."""

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
from langchain_core.runnables import RunnableConfig

from ci_tools.errors import LimitError, NotFoundError
from langchain_ci_tools.api import SessionAPI

T = TypeVar("T")

KEY = "code_interpreter_thread"
"""Where an agent's private state keeps the thread of its session."""

_PATIENCE = 300.0
"""Seconds that a call waits while the service has too much to do."""

_KNOWN = 10_000
"""Threads whose sessions are remembered; others are asked for again."""

_NAME = "thread:"
"""How the names of sessions that belong to a thread begin."""

_NAME_LIMIT = 150
"""Characters of a thread's id that are kept as they are; longer ones are hashed."""

LOST = (
    "The session of this conversation had expired. This is a new one: earlier variables and files "
    "are gone."
)
"""What is said when that happened in the middle of a conversation."""


@dataclass(frozen=True, kw_only=True)
class Where:
    """The session of a call: a given one, or that of a thread."""

    thread: str = ""
    session_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Found:
    """A session for a call; `is_new` if it stands for one that was lost."""

    id: str
    is_new: bool = False


class Sessions:
    """The sessions of one principal, by thread; used in the private event loop only.

    A thread's session is the oldest with the thread's name, so other processes, and this one when
    it is started again, find the same.
    """

    def __init__(self) -> None:
        self._ids: dict[str, str] = {}
        self._locks: dict[str, anyio.Lock] = {}

    def knows(self, where: Where) -> bool:
        """Tell whether the session has been used in this process."""
        return where.session_id is not None or to_name(where.thread) in self._ids

    async def find(self, service: SessionAPI, where: Where) -> str:
        """Return the session's id; it is made at the first call."""
        if where.session_id is not None:
            return where.session_id
        name = to_name(where.thread)
        if name not in self._ids:
            # Tools run in parallel: without the lock each would ask for itself.
            lock = self._locks.setdefault(name, anyio.Lock())
            async with lock:
                if name not in self._ids:
                    session = await patiently(lambda: service.find_or_create_session(name))
                    self._remember(name, session.id)
            self._locks.pop(name, None)
        return self._ids[name]

    async def use(
        self, service: SessionAPI, where: Where, function: Callable[[Found], Awaitable[T]]
    ) -> T:
        """Call a function with the session; once more with a new one if it turns out expired."""
        session_id = await self.find(service, where)
        try:
            return await patiently(lambda: function(Found(id=session_id)))
        except NotFoundError as error:
            if where.session_id is not None or error.kind != "session":
                raise
            name = to_name(where.thread)
            if self._ids.get(name) == session_id:
                del self._ids[name]
            fresh = await self.find(service, where)
            return await patiently(lambda: function(Found(id=fresh, is_new=True)))

    def _remember(self, name: str, session_id: str) -> None:
        self._ids[name] = session_id
        if len(self._ids) > _KNOWN:
            del self._ids[next(iter(self._ids))]


async def patiently(function: Callable[[], Awaitable[T]]) -> T:
    """Call a function, waiting and trying again while the service says to try again later."""
    deadline = anyio.current_time() + _PATIENCE
    while True:
        try:
            return await function()
        except LimitError as error:
            if error.retry_after is None or anyio.current_time() + error.retry_after > deadline:
                raise
            await anyio.sleep(error.retry_after)


def to_name(thread: str) -> str:
    """Return the name of a thread's session."""
    if len(thread) <= _NAME_LIMIT and thread.isprintable():
        return _NAME + thread
    return _NAME + hashlib.sha256(thread.encode(errors="surrogatepass")).hexdigest()


def find_thread(config: RunnableConfig | None, state: object) -> str | None:
    """Return the thread of a call: from the agent's state, or else from its configuration."""
    if isinstance(state, Mapping) and (kept := state.get(KEY)):
        return str(kept)
    configurable: Mapping[str, Any] = (config or {}).get("configurable") or {}
    thread = configurable.get("thread_id")
    return None if thread is None else str(thread)
