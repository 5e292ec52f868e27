"""Feeds: the events of one run on their way to any number of readers.

Each reader has a buffer of its own without a limit, so that a slow one neither slows the run nor
takes from another. What a run may emit is bounded by its model's answers, and so is the buffer.
"""

from collections.abc import Iterable

import anyio

from ci_tools_assistants.runs.events import Event


class Feed:
    """The events of one run from now on, until it ends or waits for its client."""

    def __init__(self) -> None:
        self._readers: list[Reader] = []
        self._closed = False

    def subscribe(self) -> "Reader":
        """Return a reader of all events that are published from here on; it is to be closed."""
        reader = Reader(self._readers, is_ended=self._closed)
        self._readers.append(reader)
        return reader

    def publish(self, events: Iterable[Event]) -> None:
        """Hand events to every reader; never waits."""
        for event in events:
            for reader in self._readers:
                reader.put(event)

    def close(self) -> None:
        """Let readers end when they have read what there is."""
        self._closed = True
        for reader in self._readers:
            reader.end()


class Reader:
    """One reader's end of a feed."""

    # No memory stream of anyio: a receive that times out at the wrong moment loses its item.

    def __init__(self, readers: "list[Reader]", *, is_ended: bool) -> None:
        self._readers = readers
        self._events: list[Event] = []
        self._is_ended = is_ended
        self._woken = anyio.Event()

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self._readers.remove(self)

    def put(self, event: Event) -> None:
        """Add an event."""
        self._events.append(event)
        self._woken.set()

    def end(self) -> None:
        """Say that no more events come."""
        self._is_ended = True
        self._woken.set()

    async def read(self, *, patience: float) -> list[Event] | None:
        """Return all events that are there, or wait for the next.

        An empty list: nothing came for `patience` seconds. None: the feed has ended.
        """
        if not self._events and not self._is_ended:
            self._woken = anyio.Event()
            with anyio.move_on_after(patience):
                await self._woken.wait()
        events, self._events = self._events, []
        return None if not events and self._is_ended else events
