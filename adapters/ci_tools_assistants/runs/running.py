"""A run that this process works on: its record, its feed, and how it is stopped.

How this works: what is stored and what is published never differ. Every change goes through
`save` or `move`, which write first and publish then, and which cannot be cancelled in between.
"""

import time
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import anyio

from ci_tools_assistants.objects import Kind, Object, now
from ci_tools_assistants.runs import events
from ci_tools_assistants.runs.drafts import CallsDraft, MessageDraft
from ci_tools_assistants.runs.events import Event
from ci_tools_assistants.runs.feeds import Feed
from ci_tools_assistants.runs.states import NO_USAGE, add_usage, is_over, move
from ci_tools_assistants.storage.records import Records, Remove, Write

StopReason: TypeAlias = Literal["cancelled", "expired", "closing", "gone"]
"""Why a run is stopped: by its client, by its time, by the end of the process, by its deletion."""

CHECKPOINT = 1.0
"""Seconds after which what is being written is stored as far as it is."""

Draft: TypeAlias = MessageDraft | CallsDraft


class ActiveRun:
    """A run in the hands of this process, from its start to its end or to `requires_action`."""

    def __init__(self, records: Records, run: Object, *, principal: str, lease: str) -> None:
        self.run = run
        self.principal = principal
        self.feed = Feed()
        self.done = anyio.Event()
        self.usage: Object = NO_USAGE
        """Tokens of all turns so far."""

        self.drafts: list[Draft] = []
        """What is begun and has no end yet, oldest first."""

        self.is_settled = False
        """Whether the run's end, or its wait for tool outputs, is stored."""

        self.stop_reason: StopReason | None = None
        self._records = records
        self._lease = lease
        self._scope = anyio.CancelScope()
        self.turn_usage: Object | None = None
        """Tokens of the turn in hand, until a step has them."""

        self._saved_at = time.monotonic()

    @property
    def id(self) -> str:
        """The id of the run."""
        return str(self.run["id"])

    @property
    def scope(self) -> anyio.CancelScope:
        """What the work on the run is done in; `stop` cancels it."""
        return self._scope

    def stop(self, reason: StopReason) -> None:
        """Stop the work on the run; the first reason counts."""
        if self.stop_reason is None:
            self.stop_reason = reason
            self._scope.cancel()

    def begin(self, draft: Draft) -> list[Event]:
        """Take a new draft in hand; return its first events."""
        self.drafts.append(draft)
        return draft.begin()

    async def save(self, happened: Sequence[Event]) -> None:
        """Store the drafts as they are now, then publish what happened."""
        with anyio.CancelScope(shield=True):
            self._take(await self._records.save(self._writes(), principal=self.principal))
        self._saved_at = time.monotonic()
        self._drop_ended()
        self.feed.publish(happened)

    async def checkpoint(self) -> None:
        """Store the drafts as they are now if that is some time ago."""
        if time.monotonic() - self._saved_at >= CHECKPOINT:
            await self.save([])

    async def move(self, status: str, happened: Sequence[Event] = (), **fields: Any) -> None:
        """Store the run in another state and the drafts as they are, then publish it all.

        Raises:
            WrongMoveError: The stored run is in a state that does not allow it.
            NoSuchObject: The run was deleted.
        """

        def change(stored: Object) -> Object:
            return move(stored, status, now=now(), usage=self.usage, **fields)

        with anyio.CancelScope(shield=True):
            self.run = await self._records.change_run(
                self.id,
                change,
                principal=self.principal,
                lease=self._lease,
                also=self._writes(),
                tell=self._take,
            )
            self.is_settled = is_over(self.run) or status == "requires_action"
        self._drop_ended()
        self.feed.publish([*happened, events.run_moved(self.run)])
        if status == "failed":
            # Without it, client libraries end their stream as if all was well.
            self.feed.publish([events.run_failed(self.run)])

    async def end(self, status: str, happened: Sequence[Event] = (), **fields: Any) -> None:
        """Store the end of the run, which is the end of all that is begun too.

        Raises:
            WrongMoveError: The stored run has ended in another way.
            NoSuchObject: The run was deleted.
        """
        ending = {**self.run, "status": status, "last_error": fields.get("error")}
        ended = list(happened)
        for draft in reversed(self.drafts):
            if not draft.is_ended:
                ended += draft.end_with(ending, usage=self.take_usage(), now=now())
        await self.move(status, ended, **fields)

    def count(self, usage: Object) -> None:
        """Count the tokens of a turn."""
        self.usage = add_usage(self.usage, usage)
        self.turn_usage = usage

    def resume(self, draft: CallsDraft, usage: Object | None) -> None:
        """Take a stored step in hand again, with the tokens of its turn."""
        self.drafts.append(draft)
        self.turn_usage = usage

    def take_usage(self) -> Object | None:
        """Return the tokens of the turn in hand to the first step that asks, else None."""
        usage, self.turn_usage = self.turn_usage, None
        return usage

    def _drop_ended(self) -> None:
        self.drafts = [draft for draft in self.drafts if not draft.is_ended]

    def _writes(self) -> list[Write | Remove]:
        writes: list[Write | Remove] = []
        for draft in self.drafts:
            private, is_new = None, not draft.is_stored
            if isinstance(draft, MessageDraft):
                parent = self.run["thread_id"]
                writes.append(Write(Kind.MESSAGE, draft.to_message(), parent, is_new=is_new))
                step = draft.step
            else:
                step, private = draft.to_step(), draft.private
            writes.append(Write(Kind.STEP, step, self.id, private, is_new))
        return writes

    def _take(self, stored: Sequence[Object]) -> None:
        """Take note of what is stored; a client may have changed metadata."""
        metadata = {item["id"]: item["metadata"] for item in stored}
        for draft in self.drafts:
            draft.is_stored = True
            if isinstance(draft, MessageDraft) and draft.message["id"] in metadata:
                # In its place: the event of its end, which comes after this, has this very object.
                draft.message["metadata"] = metadata[draft.message["id"]]
