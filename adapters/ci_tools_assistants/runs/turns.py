"""One turn of the model, written down and published as it comes."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import anyio

from ci_tools.models import new_id
from ci_tools_assistants.models import (
    LARGE,
    ArgumentsDelta,
    CallStarted,
    ChatModel,
    CodeArgumentDecoder,
    RefusalDelta,
    TextDelta,
    TurnDone,
    TurnRequest,
    find_code,
    to_stored,
)
from ci_tools_assistants.objects import Object, now
from ci_tools_assistants.runs.drafts import CallDraft, CallsDraft, MessageDraft
from ci_tools_assistants.runs.events import Event
from ci_tools_assistants.runs.recovery import CELLS
from ci_tools_assistants.runs.running import ActiveRun
from ci_tools_assistants.runs.settling import ANSWER, USAGE
from ci_tools_assistants.runs.states import MessageReason

T = TypeVar("T")


class Made:
    """What the code of a run has made since its last message, which will show it."""

    def __init__(self) -> None:
        self.images: list[str] = []
        self.attachments: list[Object] = []

    def attach(self, file_ids: Iterable[str]) -> None:
        """Add files, of which a file that was made again counts once."""
        known = [attachment["file_id"] for attachment in self.attachments]
        self.attachments += (
            {"file_id": file_id, "tools": [{"type": "code_interpreter"}]}
            for file_id in dict.fromkeys(file_ids)
            if file_id not in known
        )

    def take(self) -> tuple[list[str], list[Object]]:
        """Return the images and attachments, and forget them."""
        taken = self.images, self.attachments
        self.images, self.attachments = [], []
        return taken


class Turn:
    """A turn's text becomes a message, its calls a step; text comes before calls."""

    def __init__(
        self,
        active: ActiveRun,
        *,
        made: Made,
        code_tool: str | None,
        annotate: Callable[[str], Sequence[Object]],
    ) -> None:
        self._active = active
        self._made = made
        self._code_tool = code_tool
        self._annotate = annotate
        self._message: MessageDraft | None = None
        self._held = ""
        self._decoders: dict[int, CodeArgumentDecoder] = {}
        self.messages: list[MessageDraft] = []
        """The messages that have ended."""

        self.calls: CallsDraft | None = None
        """The step of the calls, if there are any."""

    async def ask(self, chat: ChatModel, request: TurnRequest) -> TurnDone:
        """Ask the model, and write down its answer while it comes.

        Raises:
            ModelError: It failed.
        """
        done: TurnDone | None = None
        async with chat.turn(request) as stream:
            async for event in stream:
                match event:
                    case TextDelta():
                        await self._take_text(event.text)
                    case RefusalDelta():
                        await self._take_refusal(event.text)
                    case CallStarted():
                        await self._begin_call(event.id, event.name)
                    case ArgumentsDelta():
                        await self._take_arguments(event.index, event.fragment)
                    case TurnDone():
                        done = event
        assert done is not None
        self._active.count(done.usage.to_object())
        return done

    def end_message(
        self, *, reason: MessageReason | None = None, with_usage: bool = False
    ) -> list[Event]:
        """End the message if there is one; the caller stores it."""
        if self._message is None:
            return []
        message, self._message = self._message, None
        self.messages.append(message)
        usage = self._active.take_usage() if with_usage else None
        return message.complete(self._annotate, usage=usage, now=now(), reason=reason)

    def begin_empty(self) -> list[Event]:
        """Begin a message without text if there is none: clients expect one at a run's end."""
        if self._message is not None:
            return []
        happened = self._begin_message("")
        assert self._message is not None
        if not self._message.has_content:
            happened.append(self._message.add_text(self._take_held()))
        return happened

    async def complete_calls(self, done: TurnDone) -> None:
        """Write down what of the calls has not come in pieces, and store them.

        With them goes how to find out what became of the code that is run from here on.
        """
        happened = self.end_message()
        written = {draft.id: draft for draft in self._step.calls}
        cells = {call.id: new_id("step_") for call in done.calls if written[call.id].is_code}
        private: Object = {}
        if cells:
            private = {USAGE: self._active.turn_usage, CELLS: cells}
        if (answer := to_stored(done.message)) is not None:
            private[ANSWER] = answer
        self._step.private = private or None
        for call in [*done.calls, *done.broken]:
            draft = written[call.id]
            if not draft.is_code:
                rest = "" if draft.pieces else call.arguments
            else:
                code = await _apart(call.arguments, find_code)
                rest = self._decoders[draft.index].rest(code or "")
            if rest:
                happened.append(self._step.add_written(draft, rest))
        await self._active.save(happened)

    @property
    def _step(self) -> CallsDraft:
        assert self.calls is not None
        return self.calls

    async def _take_text(self, text: str) -> None:
        if self._message is not None:
            self._active.feed.publish([self._message.add_text(text)])
            await self._active.checkpoint()
            return
        # Some models send an empty line before they call a tool: that is no message.
        self._held += text
        if self._held.strip():
            await self._active.save(self._begin_message(self._take_held()))

    async def _take_refusal(self, text: str) -> None:
        if self._message is None:
            happened = self._begin_message("")
            assert self._message is not None
            await self._active.save([*happened, self._message.add_refusal(text)])
        else:
            self._active.feed.publish([self._message.add_refusal(text)])

    async def _begin_call(self, id: str, name: str) -> None:
        happened = self.end_message()
        if self.calls is None:
            _, events = self._add_call(id, name)
            await self._active.save([*happened, *events])
        else:
            _, events = self._add_call(id, name)
            self._active.feed.publish([*happened, *events])

    def _add_call(self, id: str, name: str) -> tuple[CallDraft, list[Event]]:
        happened: list[Event] = []
        if self.calls is None:
            self.calls = CallsDraft(self._active.run, now=now())
            happened += self._active.begin(self.calls)
        draft, event = self.calls.add_call(id, name, is_code=name == self._code_tool)
        if draft.is_code:
            self._decoders[draft.index] = CodeArgumentDecoder()
        return draft, [*happened, event]

    async def _take_arguments(self, index: int, fragment: str) -> None:
        draft = self._step.calls[index]
        if draft.is_code:
            fragment = await _apart(fragment, self._decoders[index].add)
        if fragment:
            self._active.feed.publish([self._step.add_written(draft, fragment)])

    def _begin_message(self, text: str) -> list[Event]:
        images, attachments = self._made.take()
        draft = MessageDraft(self._active.run, images=images, attachments=attachments, now=now())
        self._message = draft
        happened = self._active.begin(draft)
        return [*happened, draft.add_text(text)] if text else happened

    def _take_held(self) -> str:
        held, self._held = self._held, ""
        return held


async def _apart(text: str, read: Callable[[str], T]) -> T:
    """Return what `read` makes of a text; nobody else waits for that if the text is large."""
    if len(text) <= LARGE:
        return read(text)
    return await anyio.to_thread.run_sync(read, text)
