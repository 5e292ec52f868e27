"""Kernel managers that report a started kernel at once.

jupyter_client sleeps 10 ms in every start, so that its own tests can see the state before; the
server reads the same file of event schemas for as long. A kernel from the pool is there in less.
"""

import asyncio
from typing import Any
from weakref import WeakKeyDictionary

from jupyter_client.ioloop.manager import AsyncIOLoopKernelManager
from jupyter_client.manager import KernelManager
from jupyter_events import EventLogger
from jupyter_server.services.kernels.kernelmanager import ServerKernelManager
from traitlets import default

_start: Any = getattr(KernelManager._async_start_kernel, "__wrapped__", None)
"""The start without the decorator that sleeps; None if jupyter_client has changed that."""


class _PromptStart(AsyncIOLoopKernelManager):
    """Comes between the server's manager, which announces starts, and the one that starts."""

    async def _async_start_kernel(self, **kwargs: Any) -> None:
        if _start is None:
            await super()._async_start_kernel(**kwargs)
            return
        # What the decorator does, but for the sleep.
        if self._attempted_start or not self._ready:
            self._ready = asyncio.get_running_loop().create_future()
        try:
            await _start(self, **kwargs)
        except Exception as exc:
            self._ready.set_exception(exc)
            self.log.error("Kernel %s could not be started: %s", self.kernel_id, exc)
            raise
        if self.owns_kernel:
            self._ready.set_result(None)

    start_kernel: Any = _async_start_kernel


_knowing: WeakKeyDictionary[EventLogger, set[tuple[str, ...]]] = WeakKeyDictionary()
"""The loggers of events that were told of the schemas, and of which further ones."""


class PromptKernelManager(ServerKernelManager, _PromptStart):
    """For `MappingKernelManager.kernel_manager_class`: stock, but for what takes time."""

    @default("event_logger")
    def _find_event_logger(self) -> EventLogger:
        """Return the server's logger of events, which is told of their schemas once."""
        further = tuple(map(str, self.extra_event_schema_paths))
        logger: EventLogger | None
        logger = getattr(getattr(self.parent, "parent", None), "event_logger", None)
        if logger is None or further not in _knowing.get(logger, ()):
            logger = super()._default_event_logger()
            assert isinstance(logger, EventLogger)
            _knowing.setdefault(logger, set()).add(further)
        return logger
