"""What all principals' views of one service process share."""

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from anyio.abc import TaskGroup

from ci_tools.errors import ServiceClosedError
from ci_tools.kernel import KernelBackend
from ci_tools.limits import RateLimiter
from ci_tools.models import RunStep
from ci_tools.outputs import OutputLog
from ci_tools.running import RunningStep
from ci_tools.settings import Settings

if TYPE_CHECKING:
    from ci_tools.live import LiveSession
    from ci_tools.stores.blobs import BlobStore
    from ci_tools.stores.records import RecordStore


@dataclass(kw_only=True)
class Engine:
    """The stores, the backend, the live sessions and the steps in hand of one process."""

    settings: Settings
    backend: KernelBackend
    records: "RecordStore"
    blobs: "BlobStore"
    lease: str
    tasks: TaskGroup
    rates: RateLimiter
    live: dict[str, "LiveSession"] = field(default_factory=dict)
    """Sessions that have an owning task here, by id."""

    running: dict[str, RunningStep] = field(default_factory=dict)
    """Unfinished steps of this process, by id."""

    unwritten: dict[str, RunStep] = field(default_factory=dict)
    """Final steps that the store did not take; upkeep tries again."""

    commands: Counter[str] = field(default_factory=Counter)
    """How many shell commands each principal runs in this process."""

    room_checks: dict[str, float] = field(default_factory=dict)
    """When to count again what a principal keeps, by its name."""

    on_finished: list[Callable[[RunStep], None]] = field(default_factory=list)
    """Told each final step of this process, for metrics and traces; they neither raise nor wait."""

    on_erase: list[Callable[[str], Awaitable[None]]] = field(default_factory=list)
    """Called with a principal that is being erased, to delete what adapters keep of it."""

    closing: bool = False

    def admit(self, principal: str) -> None:
        """Raise if the service is closing, or if the principal calls too often."""
        if self.closing:
            raise ServiceClosedError
        self.rates.check(principal)

    def spool_path(self, step_id: str) -> Path:
        """Where a step's text is spooled while it runs."""
        return self.settings.state_dir / "spool" / f"{step_id}.txt"

    def open_step(self, step: RunStep) -> RunningStep:
        """Take a new step in hand."""
        running = RunningStep(
            step,
            OutputLog(
                self.spool_path(step.id),
                text_limit=self.settings.text_limit,
                display_limit=self.settings.display_limit,
                full_text_limit=self.settings.full_text_limit,
            ),
        )
        self.running[step.id] = running
        return running
