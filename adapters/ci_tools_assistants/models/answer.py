"""The chunks of one answer, put together as they come."""

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata, add_usage
from langchain_core.messages.tool import ToolCallChunk

from ci_tools.models import new_id
from ci_tools_assistants.models.arguments import load_object
from ci_tools_assistants.models.chunks import Chunks
from ci_tools_assistants.models.exchange import (
    ArgumentsDelta,
    Call,
    CallStarted,
    Finish,
    RefusalDelta,
    TextDelta,
    TurnDone,
    TurnEvent,
    TurnRequest,
    Usage,
)
from ci_tools_assistants.models.failures import ModelError
from ci_tools_assistants.models.surrogates import ends_with_half, join_halves
from ci_tools_assistants.models.tokens import count_messages, count_text, count_tools

_FINISHES: Final[dict[str, Finish]] = {
    "stop": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "completed": "stop",
    "tool_calls": "tool_calls",
    "tool_use": "tool_calls",
    "function_call": "tool_calls",
    "length": "length",
    "max_tokens": "length",
    "max_output_tokens": "length",
    "model_context_window_exceeded": "length",
    "incomplete": "length",
    "content_filter": "content_filter",
    "safety": "content_filter",
    "recitation": "content_filter",
    "blocklist": "content_filter",
    "prohibited_content": "content_filter",
    "spii": "content_filter",
    "refusal": "refusal",
}
"""The providers' words for the end of an answer, in small letters."""

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""Ids of calls that are taken over as they are."""

ANSWER_LIMIT: Final = 4_000_000
"""Characters of an answer, with what nobody sees of it; each piece counts as some more."""

ARGUMENTS_LIMIT: Final = 1_000_000
"""Characters that the arguments of an answer's calls may have together."""

CALLS_LIMIT: Final = 128
"""Calls in one answer."""

LARGE: Final = 50_000
"""Characters of arguments that take so long to read that others should not wait for it."""

_CHUNK_SIZE = 16
"""Characters that a chunk counts as beside those in it: many empty ones are too many as well."""

_EMPTY = "The model answered nothing. You can try again."
_TOO_LONG = "The model's answer is longer than {limit} characters, and was stopped."
_TOO_MUCH = (
    "The arguments of the model's calls are longer than {limit} characters, and the answer was "
    "stopped."
)
_TOO_MANY = "The model called more than {limit} tools in one answer, which was stopped."


class Answer:
    """One answer that grows chunk by chunk."""

    def __init__(self, request: TurnRequest, messages: Sequence[BaseMessage]) -> None:
        self._request = request
        self._messages = messages
        self.chunks = Chunks()
        self._size = self._arguments = 0
        self._is_cut = False
        self._texts: list[str] = []
        self._refusals: list[str] = []
        self._calls: list[_OpenCall] = []
        self._open: dict[int | str, _OpenCall] = {}
        self._half = ""
        self._known_ids: set[str] | None = None
        self._usage: UsageMetadata | None = None
        self._finish: Finish | None = None

    @property
    def has_begun(self) -> bool:
        """Whether anything has been passed on."""
        return bool(self._texts or self._refusals or self._calls)

    @property
    def is_large(self) -> bool:
        """Whether `finish` may take so long that it should not be called in the event loop."""
        return self._arguments > LARGE

    def add(self, chunk: AIMessageChunk) -> Iterator[TurnEvent]:
        """Yield what a chunk adds.

        Raises:
            ModelError: The answer is too long.
        """
        self._measure(chunk)
        self.chunks.add(chunk)
        if chunk.usage_metadata is not None:
            self._usage = add_usage(self._usage, chunk.usage_metadata)
        self._finish = _find_finish(chunk.response_metadata) or self._finish
        if text := self._take_text(str(chunk.text)):
            self._texts.append(text)
            yield TextDelta(text)
        if refusal := _find_refusal(chunk):
            self._refusals.append(refusal)
            yield RefusalDelta(refusal)
        for part in chunk.tool_call_chunks:
            yield from self._add_call(part)

    def finish(self) -> TurnDone:
        """Return the end of the turn.

        Raises:
            ModelError: The stream ended before it began.
        """
        if not self.has_begun and self._finish is None:
            raise ModelError("server_error", _EMPTY, retryable=True)
        finish = self._normal_finish()
        calls = [Call(id=call.id, name=call.name, arguments=call.text) for call in self._calls]
        values = [load_object(call.arguments) for call in calls]
        # Some servers write `tool_calls` over the `length` that cut the arguments.
        whole = [
            call
            for call, value in zip(calls, values, strict=True)
            if value is not None and finish != "length"
        ]
        broken = [call for call in calls if call not in whole]
        if whole and finish == "stop":
            finish = "tool_calls"
        if not self._request.parallel:
            whole = whole[:1]
        return TurnDone(
            text="".join(self._texts),
            calls=whole,
            broken=broken,
            finish=finish,
            usage=self._to_usage(),
            refusal="".join(self._refusals),
            message=self._message(values) if whole else None,
        )

    def _measure(self, chunk: AIMessageChunk) -> None:
        """Count a chunk; nobody knows what a provider sends, and it is all kept in memory."""
        self._size += _CHUNK_SIZE + _size_of(chunk.content) + _size_of(chunk.additional_kwargs)
        self._arguments += sum(len(part["args"] or "") for part in chunk.tool_call_chunks)
        if self._size > ANSWER_LIMIT:
            raise ModelError("server_error", _TOO_LONG.format(limit=ANSWER_LIMIT))
        if self._arguments > ARGUMENTS_LIMIT:
            raise ModelError("server_error", _TOO_MUCH.format(limit=ARGUMENTS_LIMIT))

    def _take_text(self, text: str) -> str:
        """Return the text of a chunk; the half of a character waits for its other half."""
        text = self._half + text
        self._half = text[-1:] if ends_with_half(text) else ""
        return join_halves(text.removesuffix(self._half))

    def _add_call(self, part: ToolCallChunk) -> Iterator[TurnEvent]:
        call = self._find_call(part)
        if call is None or call.index < 0:
            return
        if call.started:
            if fragment := part["args"]:
                call.fragments.append(fragment)
                yield ArgumentsDelta(call.index, fragment)
            return
        call.started = True
        yield CallStarted(call.index, call.id, call.name)
        if fragment := part["args"]:
            call.fragments.append(fragment)
            yield ArgumentsDelta(call.index, fragment)

    def _find_call(self, part: ToolCallChunk) -> "_OpenCall | None":
        index, id, name = part["index"], part["id"], part["name"]
        key: int | str | None = index if index is not None else id
        if key is None and not name:
            # Neither says whose fragment it is: the last call's.
            return self._calls[-1] if self._calls else None
        known = self._open.get(key) if key is not None else None
        # Some servers count every call as number 0; a new id and name are a new call.
        if known is not None and not (name and id and id != known.provider_id):
            return known
        if not name:
            return self._calls[-1] if self._calls else None
        if not self._request.parallel and self._calls:
            # Where parallel calls cannot be forbidden, only the first one counts.
            self._is_cut = True
            ignored = _OpenCall(index=-1, id="", name=name, provider_id=id)
            if key is not None:
                self._open[key] = ignored
            return None
        if len(self._calls) == CALLS_LIMIT:
            raise ModelError("server_error", _TOO_MANY.format(limit=CALLS_LIMIT))
        call = _OpenCall(index=len(self._calls), id=self._take_id(id), name=name, provider_id=id)
        self._calls.append(call)
        self._open[key if key is not None else call.id] = call
        return call

    def _take_id(self, id: str | None) -> str:
        if self._known_ids is None:
            self._known_ids = {
                str(call["id"])
                for message in self._messages
                if isinstance(message, AIMessage)
                for call in message.tool_calls
            }
        # Some servers number the calls of every answer from 0 again.
        if not id or id in self._known_ids or not _ID.fullmatch(id):
            id = new_id("call_")
        self._known_ids.add(id)
        return id

    def _normal_finish(self) -> Finish:
        if self._refusals:
            return "refusal"
        return self._finish or ("tool_calls" if self._calls else "stop")

    def _message(self, values: Sequence[dict[str, Any] | None]) -> AIMessage | None:
        """Return the provider's own message; None if its words do not fit the calls any more."""
        whole = self.chunks.whole()
        is_own = all(call.id == call.provider_id for call in self._calls)
        if whole is None or not is_own or self._is_cut:
            return None
        calls = [
            {"name": call.name, "args": value, "id": call.id, "type": "tool_call"}
            for call, value in zip(self._calls, values, strict=True)
        ]
        if any(call["args"] is None for call in calls):
            return None
        return AIMessage(
            content=whole.content,
            additional_kwargs=whole.additional_kwargs,
            response_metadata=whole.response_metadata,
            tool_calls=calls,
            id=whole.id,
        )

    def _to_usage(self) -> Usage:
        used = self._usage
        if used is None or not (used["input_tokens"] or used["output_tokens"]):
            texts = [*self._texts, *self._refusals, *(call.text for call in self._calls)]
            return Usage(
                prompt_tokens=count_messages(self._messages) + count_tools(self._request.tools),
                completion_tokens=count_text("".join(texts)),
                is_estimated=True,
            )
        cached: Any = used.get("input_token_details", {}).get("cache_read")
        reasoning: Any = used.get("output_token_details", {}).get("reasoning")
        return Usage(
            prompt_tokens=used["input_tokens"],
            completion_tokens=used["output_tokens"],
            cached_tokens=cached or 0,
            reasoning_tokens=reasoning or 0,
        )


class _OpenCall:
    """A call while its arguments come in."""

    def __init__(self, *, index: int, id: str, name: str, provider_id: str | None) -> None:
        self.index = index
        self.id = id
        self.name = name
        self.provider_id = provider_id
        self.started = False
        self.fragments: list[str] = []

    @property
    def text(self) -> str:
        """The arguments so far; a call without any has none."""
        return "".join(self.fragments).strip() or "{}"


def _size_of(value: object) -> int:
    """Return about how many characters there are in a chunk's content."""
    match value:
        case str():
            return len(value)
        case list():
            return sum(map(_size_of, value))
        case dict():
            return sum(map(_size_of, value.values()))
        case _:
            return 0


def _find_finish(metadata: dict[str, Any]) -> Finish | None:
    details = metadata.get("incomplete_details")
    if isinstance(details, dict) and details.get("reason"):
        return _FINISHES.get(str(details["reason"]), "length")
    for key in ("finish_reason", "stop_reason", "done_reason", "status"):
        word = metadata.get(key)
        if isinstance(word, str):
            return _FINISHES.get(word.lower())
    return None


def _find_refusal(chunk: AIMessageChunk) -> str:
    refusal = chunk.additional_kwargs.get("refusal")
    if isinstance(refusal, str):
        return refusal
    if isinstance(chunk.content, str):
        return ""
    blocks = (block for block in chunk.content if isinstance(block, dict))
    return "".join(
        str(block.get("refusal") or "") for block in blocks if block.get("type") == "refusal"
    )
