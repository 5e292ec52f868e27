"""What a running cell shows, as outputs of the API that only grow.

Two things that code can do take shown output back, which no client could follow: clearing the
output and updating a display. A display that may be updated is shown when the cell ends, as it is
then; and from the first clearing on everything waits for the end, so that of an animation the last
picture is shown.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TypeAlias, assert_never

from ci_tools import (
    CIToolsError,
    DisplayOutput,
    ErrorOutput,
    Output,
    RunStep,
    StepDisplayUpdated,
    StepStatus,
    StreamOutput,
)
from ci_tools.render import Image, find_images, output_text
from ci_tools_assistants.objects import Object
from ci_tools_assistants.runs.live_logs import LiveLogs

IMAGES_AT_ONCE = 50
"""Images of one cell that are shown."""


@dataclass(frozen=True)
class LogsDelta:
    """More text for the logs output at the end; after an image, for a new one."""

    text: str


@dataclass(frozen=True)
class ImageMade:
    """An image, which is a file of purpose `assistants_output` already."""

    file_id: str


Delta: TypeAlias = LogsDelta | ImageMade


class Cell:
    """The outputs of one cell so far; `publish` keeps an image and returns its file's id."""

    def __init__(self, publish: Callable[[Image], Awaitable[str]]) -> None:
        self._publish = publish
        self._logs = LiveLogs()
        self._later: dict[str, DisplayOutput] = {}
        self._waits = self._clear_next = False
        self._images = 0
        self.step: RunStep | None = None
        """The step, once it has begun."""

        self.outputs: list[Object] = []
        """What all deltas so far add up to."""

    async def add(self, output: Output) -> list[Delta]:
        """Take the next output."""
        if self._clear_next:
            self._drop()
        if self._waits:
            return []
        if isinstance(output, DisplayOutput) and output.display_id is not None:
            self._later[output.display_id] = output
            return []
        return await self._show(output)

    def update(self, event: StepDisplayUpdated) -> None:
        """Take the new content of a display."""
        known = self._later.get(event.display_id)
        if known is not None:
            self._later[event.display_id] = replace(known, data=event.data, metadata=event.metadata)

    def clear(self, *, wait: bool) -> None:
        """Note that the code clears its output, or (`wait`) will with the next output.

        What was sent stays.
        """
        self._clear_next = wait
        if not wait:
            self._drop()

    def _drop(self) -> None:
        self._waits, self._clear_next = True, False
        self._logs.drop()
        self._later.clear()

    async def finish(self, step: RunStep, *, ending: str | None = None) -> list[Delta]:
        """Take the end of the cell: what has waited, and why it ended.

        `ending` is what there is to say about it, if that is not in the step.
        """
        self.step = step
        deltas: list[Delta] = []
        for output in step.outputs if self._waits else tuple(self._later.values()):
            deltas += await self._show(output)
        return deltas + self.fail(_ending(step) if ending is None else ending)

    def fail(self, message: str) -> list[Delta]:
        """Take the end of the cell, and what there is to say about it."""
        return [*self._text(self._logs.add_block(message)), *self._text(self._logs.finish())]

    async def _show(self, output: Output) -> list[Delta]:
        match output:
            case StreamOutput():
                return self._text(self._logs.add(output.name, output.text))
            case DisplayOutput():
                images = find_images((output,))
                if images and self._images < IMAGES_AT_ONCE:
                    return await self._show_image(images[0])
                return self._text(self._logs.add_block(self._text_of(output)))
            case ErrorOutput():
                return self._text(self._logs.add_block(self._text_of(output)))
            case _:
                assert_never(output)

    async def _show_image(self, image: Image) -> list[Delta]:
        self._images += 1
        try:
            file_id = await self._publish(image)
        except CIToolsError as error:  # the principal may keep no more, for example
            return self._text(self._logs.add_block(f"[an image that could not be kept: {error}]"))
        before = self._text(self._logs.end_segment())
        self.outputs.append({"type": "image", "image": {"file_id": file_id}})
        return [*before, ImageMade(file_id)]

    def _text_of(self, output: Output) -> str:
        return "" if self.step is None else output_text(replace(self.step, outputs=(output,)))

    def _text(self, text: str) -> list[Delta]:
        if not text:
            return []
        if self.outputs and self.outputs[-1]["type"] == "logs":
            self.outputs[-1]["logs"] += text
        else:
            self.outputs.append({"type": "logs", "logs": text})
        return [LogsDelta(text)]


def _ending(step: RunStep) -> str:
    """Say how a step ended, unless its traceback says it."""
    if step.error is None:
        return "The code was cancelled." if step.status is StepStatus.CANCELLED else ""
    raised = any(isinstance(output, ErrorOutput) for output in step.outputs)
    if step.error.code == "code_error" and raised:
        return ""
    return f"Error ({step.error.code}): {step.error.message}"
