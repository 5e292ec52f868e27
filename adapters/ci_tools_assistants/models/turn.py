"""One turn of a model as a stream of events, whichever provider it is.

How this works: a turn is one request. It is repeated as long as nothing of the answer has been
passed on, after a failure that may go away, and once with shorter messages if they did not fit.
After the first event a failure is final, for clients have seen half an answer. Every wait for the
provider is bounded by the entry's time-out; leaving the block closes the request.
"""

import json
import logging
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final

import anyio
import anyio.lowlevel
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage

from ci_tools.settings import ModelEntry
from ci_tools_assistants.models import binding
from ci_tools_assistants.models.answer import Answer
from ci_tools_assistants.models.capabilities import Capabilities
from ci_tools_assistants.models.chunks import Chunks
from ci_tools_assistants.models.exchange import TurnDone, TurnEvent, TurnRequest
from ci_tools_assistants.models.failures import ModelError, rejected, to_model_error

logger = logging.getLogger(__name__)

LONGEST_WAIT: Final = 20.0
"""Seconds before a repetition at most, whatever the provider asks for."""

FIRST_WAIT: Final = 0.5
"""Seconds before the first repetition if the provider asks for none; doubled each time."""

LONGEST_TURN: Final = 0.005
"""Seconds for which an answer is read before others have their turn in the event loop."""


class ChatModel:
    """A model that can be asked; made by `ModelRegistry.resolve`."""

    def __init__(
        self, name: str, model: BaseChatModel, entry: ModelEntry, capabilities: Capabilities
    ) -> None:
        self.name = name
        """The name that clients asked for."""
        self.model = model
        self.capabilities = capabilities
        self._entry = entry

    @asynccontextmanager
    async def turn(self, request: TurnRequest) -> AsyncIterator[AsyncIterator[TurnEvent]]:
        """Ask the model; iterate for the events, of which `TurnDone` is the last.

        Raises:
            ModelError: While iterating; what the model failed with.
        """
        async with aclosing(self._events(request)) as events:
            yield events

    async def _events(self, request: TurnRequest) -> AsyncGenerator[TurnEvent, None]:
        messages: Sequence[BaseMessage] = request.messages
        shortened = False
        tries = 0
        while True:
            answer = Answer(request, messages)
            try:
                async with aclosing(self._chunks(request, messages, answer.chunks)) as chunks:
                    async for chunk in chunks:
                        for event in answer.add(chunk):
                            yield event
                yield await _finish(answer)
                return
            except ModelError as error:
                if answer.has_begun:
                    raise
                if error.is_overflow and request.shorten is not None and not shortened:
                    shortened = True
                    messages = request.shorten(error.window or self.capabilities.window)
                    logger.info("model %s: the prompt was too long and is shortened", self.name)
                    continue
                if not error.retryable or tries >= self._entry.max_retries:
                    raise
                wait = _find_wait(error, tries)
            tries += 1
            logger.info("model %s: repetition %d in %.1f s", self.name, tries, wait)
            await anyio.sleep(wait)

    async def _chunks(
        self, request: TurnRequest, messages: Sequence[BaseMessage], gathered: Chunks
    ) -> AsyncGenerator[AIMessageChunk, None]:
        """Yield the chunks of one request, each within the time-out; `gathered` has those taken."""
        said = binding.add_instructions(messages, self.capabilities, request)
        try:
            bound = binding.bind(self.model, self.capabilities, request)
        except (ValueError, TypeError, KeyError) as error:
            logger.warning("model %s: the request cannot be made: %s", self.name, error)
            raise rejected() from error
        if not self._entry.stream:
            yield to_chunk(await self._whole(bound, said))
            return
        stream = bound.astream(said)
        assert isinstance(stream, AsyncGenerator)
        since = time.monotonic()
        try:
            while True:
                if time.monotonic() - since > LONGEST_TURN:
                    # A hundred pieces that are there at once would all be read in one go.
                    await anyio.lowlevel.checkpoint()
                    since = time.monotonic()
                try:
                    with gathered.reading(), anyio.fail_after(self._entry.timeout):
                        chunk = await anext(stream, None)
                except Exception as error:  # every provider has its own
                    raise to_model_error(error, model=self.name) from error
                if chunk is None:
                    return
                if isinstance(chunk, AIMessageChunk):
                    yield chunk
                elif isinstance(chunk, AIMessage):  # of a model that does not stream
                    yield to_chunk(chunk)
        finally:  # leaving closes the request
            with gathered.reading():
                await stream.aclose()

    async def _whole(self, bound: Any, messages: Sequence[BaseMessage]) -> AIMessage:
        try:
            with anyio.fail_after(self._entry.timeout):
                message: AIMessage = await bound.ainvoke(messages)
        except Exception as error:  # every provider has its own
            raise to_model_error(error, model=self.name) from error
        return message


def to_chunk(message: AIMessage) -> AIMessageChunk:
    """Return a whole message as the one chunk of a stream."""
    calls = [*message.tool_calls, *message.invalid_tool_calls]
    with Chunks().reading():
        return AIMessageChunk(
            content=message.content,
            additional_kwargs=message.additional_kwargs,
            response_metadata=message.response_metadata,
            usage_metadata=message.usage_metadata,
            tool_call_chunks=[
                {
                    "name": call["name"],
                    "args": args if isinstance(args := call["args"], str) else json.dumps(args),
                    "id": call["id"],
                    "index": index,
                    "type": "tool_call_chunk",
                }
                for index, call in enumerate(calls)
            ],
        )


async def _finish(answer: Answer) -> TurnDone:
    if not answer.is_large:
        return answer.finish()
    return await anyio.to_thread.run_sync(answer.finish)


def _find_wait(error: ModelError, tries: int) -> float:
    asked = error.retry_after
    if asked is None:
        # Spread, so that runs that failed together do not come back together.
        asked = FIRST_WAIT * 2**tries * random.uniform(0.75, 1.25)  # noqa: S311
    return min(asked, LONGEST_WAIT)
