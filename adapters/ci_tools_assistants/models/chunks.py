"""The chunks of one answer, gathered in time that grows with their size and not with its square.

How this works: LangChain tries to understand every fragment of a call's arguments as JSON, cutting
off one character after the other until it can, and puts all chunks together in one go when a stream
ends. Both are quadratic: a provider that sends a hundred kilobytes of arguments in one piece, or
a hundred thousand pieces, would hold up the event loop, and so everybody, for seconds or minutes.
Both are done by functions that LangChain looks up in its modules at each call, whichever provider
it is. While a turn of ours reads its stream (`Chunks.reading`) those two do less: what is not
complete JSON, or large, is no call yet, and what was gathered along the way is not put together
again. For everybody else in the process they are as they were.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from langchain_core.language_models import chat_models
from langchain_core.messages import AIMessageChunk, ai
from langchain_core.messages.ai import add_ai_message_chunks
from langchain_core.outputs import ChatGenerationChunk

AT_ONCE: Final = 64
"""Chunks that are put together to one, which is then one of so many again."""

_LARGE: Final = 50_000
"""Characters of arguments that are read once, by `Answer.finish`."""


class Chunks:
    """The chunks of one answer so far."""

    def __init__(self) -> None:
        self._first: AIMessageChunk | None = None
        self._levels: list[list[AIMessageChunk]] = [[]]

    def add(self, chunk: AIMessageChunk) -> None:
        """Take the next chunk."""
        self._first = self._first or chunk
        level = 0
        while True:
            self._levels[level].append(chunk)
            if len(self._levels[level]) < AT_ONCE:
                return
            chunk = self._merge(self._levels[level])
            self._levels[level] = []
            level += 1
            if level == len(self._levels):
                self._levels.append([])

    def whole(self) -> AIMessageChunk | None:
        """Return all chunks as one; None if there are none."""
        if self._first is None:
            return None
        return self._merge([chunk for level in reversed(self._levels) for chunk in level])

    def begins_with(self, chunk: object) -> bool:
        """Tell whether that was the first chunk."""
        return chunk is self._first

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Read from the stream of this answer; the block must not be left by a `yield`."""
        token = _reading.set(self)
        try:
            yield
        finally:
            _reading.reset(token)

    def _merge(self, chunks: list[AIMessageChunk]) -> AIMessageChunk:
        if len(chunks) == 1:
            return chunks[0]
        with self.reading():
            return add_ai_message_chunks(*chunks)


_reading: ContextVar[Chunks | None] = ContextVar("reading", default=None)


def _parse(original: Callable[..., Any]) -> Callable[..., Any]:
    def parse(text: str, *args: Any, **options: Any) -> Any:
        if _reading.get() is None:
            return original(text, *args, **options)
        if len(text) > _LARGE:
            raise ValueError("not read here")
        return json.loads(text, strict=False)

    return parse


def _merge_all(original: Callable[..., Any]) -> Callable[..., Any]:
    def merge(chunks: list[ChatGenerationChunk]) -> ChatGenerationChunk | None:
        gathered = _reading.get()
        # A model may ask others, whose chunks are not its own.
        if gathered is None or not chunks or not gathered.begins_with(chunks[0].message):
            found: ChatGenerationChunk | None = original(chunks)
            return found
        whole = gathered.whole()
        assert whole is not None
        return ChatGenerationChunk(message=whole, generation_info=chunks[-1].generation_info)

    return merge


def _replace(module: Any, name: str, wrap: Callable[[Callable[..., Any]], object]) -> None:
    # If a later release has another name for it, its streams are read as it reads them.
    original = getattr(module, name, None)
    if original is not None:
        setattr(module, name, wrap(original))


_replace(ai, "parse_partial_json", _parse)
_replace(chat_models, "merge_chat_generation_chunks", _merge_all)
