"""What the tools need of a session service: the one of this process, or a client of another."""

from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeAlias

from ci_tools.models import CommandEvent, File, RunStep, Session, StepEvent

Put: TypeAlias = Callable[[object], None] | None
"""Hands something to a waiting caller, from the private event loop; None if nobody listens."""


class Uploads(Protocol):
    """Files that belong to no session yet."""

    async def add(self, name: str, content: bytes | AsyncIterable[bytes]) -> File:
        """Keep a file; its id can be staged into any session of the principal."""

    async def stage(self, session_id: str, id: str, path: str | None = None) -> File:
        """Copy a file into a session's /mnt/data."""


class SessionAPI(Protocol):
    """The part of `ci_tools.SessionService` that is used here; `ci_tools_client` has it too."""

    async def find_or_create_session(self, name: str) -> Session:
        """Return the principal's oldest session of that name; one is made if there is none."""

    async def get_session(self, session_id: str) -> Session:
        """Return a session."""

    async def close_session(self, session_id: str) -> None:
        """Delete a session with its files."""

    async def interrupt_session(self, session_id: str) -> RunStep | None:
        """Cancel the step that runs now; None if none does."""

    async def run_code(
        self, session_id: str, code: str, *, timeout: float | None = None
    ) -> RunStep:
        """Run code and return its final step."""

    def stream_code(
        self, session_id: str, code: str, *, timeout: float | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[StepEvent]]:
        """Run code; iterate for its events, the final step last."""

    def stream_command(
        self,
        session_id: str,
        command: str,
        *,
        timeout: float = 60.0,
        output_limit: int = 1_000_000,
    ) -> AbstractAsyncContextManager[AsyncIterator[CommandEvent]]:
        """Run a shell command; iterate for its output, how it ended last."""

    async def get_run_step(self, step_id: str) -> RunStep:
        """Return a step."""

    async def list_run_steps(
        self, session_id: str, *, limit: int = 20, before: str | None = None
    ) -> list[RunStep]:
        """List a session's steps, newest first."""

    def open_full_text(
        self, step_id: str, *, offset: int = 0, length: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Stream the whole text of a step whose outputs were cut."""

    async def upload_file(
        self, session_id: str, path: str, content: bytes | AsyncIterable[bytes]
    ) -> File:
        """Put a file into the session."""

    async def list_files(self, session_id: str, *, limit: int = 1000) -> list[File]:
        """List the files of the session."""

    async def stat_file(self, session_id: str, path: str, *, digest: bool = True) -> File:
        """Describe one file."""

    def open_file(
        self, session_id: str, path: str, *, offset: int = 0, length: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Stream a file's bytes."""

    @property
    def uploads(self) -> Uploads:
        """Files that belong to no session yet."""
