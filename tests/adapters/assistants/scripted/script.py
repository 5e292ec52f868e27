"""What a scripted model says: turns of parts, failures, and gates that a test opens.

A script is a list of turns, taken one per request, or a function of the request.
"""

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import anyio

Body: TypeAlias = dict[str, Any]
"""A JSON body; every provider has its own shape."""

Shape: TypeAlias = Literal["chat", "responses", "anthropic", "ollama"]
"""Whose API a request came through."""

Finish: TypeAlias = Literal["stop", "tool_calls", "length", "content_filter", "refusal"]
"""Why a turn ended, in neutral words; each shape has its own."""


class Gate:
    """A place in a script where the server waits until the test opens it."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._open = threading.Event()

    def open(self) -> None:
        """Let the server go on; may be called from any thread."""
        self._open.set()

    @property
    def is_reached(self) -> bool:
        """Whether the server has come this far."""
        return self._reached.is_set()

    async def reached(self) -> None:
        """Wait until the server has come this far."""
        while not self._reached.is_set():
            await anyio.sleep(0.002)

    async def pass_through(self) -> None:
        """Say that the server is here, and wait until the test opens the gate."""
        self._reached.set()
        while not self._open.is_set():
            await anyio.sleep(0.002)


@dataclass(frozen=True)
class Say:
    """Text of the answer, sent as one chunk."""

    text: str


@dataclass(frozen=True)
class Think:
    """Reasoning, which no answer shows."""

    text: str


@dataclass(frozen=True)
class Refuse:
    """A refusal, sent as one chunk."""

    text: str


@dataclass(frozen=True)
class CallTool:
    """A call of a tool; `arguments` as text is sent as it stands, however wrong."""

    name: str
    arguments: Mapping[str, Any] | str = field(default_factory=dict)
    id: str = ""
    """Its id; empty takes `call_` and a number."""
    piece: int = 8
    """Characters in one fragment of the arguments."""

    @property
    def text(self) -> str:
        """The arguments as JSON text."""
        return self.arguments if isinstance(self.arguments, str) else json.dumps(self.arguments)

    @property
    def fragments(self) -> list[str]:
        """The arguments in the fragments they are streamed in."""
        text = self.text
        return [text[start : start + self.piece] for start in range(0, len(text), self.piece)]


@dataclass(frozen=True)
class Wait:
    """A pause until the test opens the gate; one that is never opened is a stall."""

    gate: Gate = field(default_factory=Gate)


@dataclass(frozen=True)
class Cut:
    """The end of the connection, in the middle of the answer."""


@dataclass(frozen=True)
class Break:
    """An error told inside of the stream, after which it ends."""

    message: str = "The server had an error while processing your request."
    code: str | None = "server_error"


Part: TypeAlias = Say | Think | Refuse | CallTool | Wait | Cut | Break | str


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Tokens of a turn."""

    prompt: int = 10
    completion: int = 5
    cached: int = 0
    reasoning: int = 0


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One answer of the model."""

    parts: tuple[Part, ...]
    usage: Usage | None = Usage()
    finish: Finish | None = None
    """None: `tool_calls` if there are any, `refusal` after one, else `stop`."""

    @property
    def calls(self) -> list[CallTool]:
        """The calls of tools, in order."""
        return [part for part in self.parts if isinstance(part, CallTool)]

    @property
    def text(self) -> str:
        """The whole text of the answer."""
        says = [Say(part) if isinstance(part, str) else part for part in self.parts]
        return "".join(part.text for part in says if isinstance(part, Say))

    @property
    def reason(self) -> Finish:
        """Why the turn ends."""
        if self.finish is not None:
            return self.finish
        if self.calls:
            return "tool_calls"
        return "refusal" if any(isinstance(part, Refuse) for part in self.parts) else "stop"


@dataclass(frozen=True, kw_only=True)
class Fail:
    """An answer that is an HTTP error instead of a turn."""

    status: int
    message: str = "The request failed."
    type: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def turn(*parts: Part, usage: Usage | None = Usage(), finish: Finish | None = None) -> Turn:
    """Return a turn of parts; text stands for itself."""
    return Turn(parts=parts, usage=usage, finish=finish)


def words(text: str) -> list[Part]:
    """Return text as parts of one word each, as models send it."""
    pieces = text.split(" ")
    return [Say(piece if number == 0 else f" {piece}") for number, piece in enumerate(pieces)]


RATE_LIMIT = Fail(
    status=429,
    message="Rate limit reached for requests",
    type="requests",
    code="rate_limit_exceeded",
)
"""Too many requests; a second attempt may succeed."""

NO_QUOTA = Fail(
    status=429,
    message="You exceeded your current quota, please check your plan and billing details.",
    type="insufficient_quota",
    code="insufficient_quota",
)
"""Nothing left to pay with; a second attempt is useless."""

SERVER_ERROR = Fail(
    status=500,
    message="The server had an error while processing your request.",
    type="server_error",
)
"""A failure of the provider."""

OVERFLOW = Fail(
    status=400,
    message="This model's maximum context length is 8192 tokens. However, your messages resulted "
    "in 9000 tokens. Please reduce the length of the messages.",
    type="invalid_request_error",
    code="context_length_exceeded",
)
"""A prompt that is too long, as OpenAI says it."""


@dataclass(kw_only=True)
class Request:
    """One request that a scripted server got."""

    shape: Shape
    headers: Mapping[str, str]
    body: Body
    number: int
    """How many came before it."""

    started: float = field(default_factory=time.perf_counter)
    """When it came, on the clock `time.perf_counter`."""

    first_sent: float | None = None
    """When the first text, refusal or call was sent, on the same clock."""

    hung_up: threading.Event = field(default_factory=threading.Event)
    """Set when the client left before the end of the answer."""

    @property
    def model(self) -> str:
        """The model it asks for."""
        return str(self.body.get("model", ""))

    @property
    def streams(self) -> bool:
        """Whether the answer is wanted as a stream; Ollama's default is yes."""
        return bool(self.body.get("stream", self.shape == "ollama"))

    @property
    def messages(self) -> list[Body]:
        """The messages (the items of a Responses request), as they came."""
        value = self.body.get("input" if self.shape == "responses" else "messages", [])
        return [{"role": "user", "content": value}] if isinstance(value, str) else list(value)

    @property
    def system(self) -> str:
        """The instructions, wherever the shape has them."""
        if self.shape == "anthropic":
            return _to_text(self.body.get("system", ""))
        roles = ("system", "developer")
        texts = [
            _to_text(message.get("content"))
            for message in self.messages
            if message.get("role") in roles
        ]
        return "\n".join([str(self.body.get("instructions") or ""), *texts]).strip()

    @property
    def tools(self) -> list[str]:
        """The names of the tools offered."""
        names = [
            tool.get("function", tool).get("name", "") for tool in self.body.get("tools") or ()
        ]
        return [str(name) for name in names]

    @property
    def tool_results(self) -> list[str]:
        """The texts of the tool results after the last message of a user or the model."""
        found: list[str] = []
        for message in reversed(self.messages):
            results = _to_results(message)
            if results is None:
                break
            found[:0] = results
        return found

    @property
    def last_text(self) -> str:
        """The text of the last message of a user."""
        for message in reversed(self.messages):
            if message.get("role") == "user" and _to_results(message) is None:
                return _to_text(message.get("content"))
        return ""


def _to_results(message: Body) -> list[str] | None:
    """Return the results in a message that is nothing else, or None."""
    if message.get("role") == "tool":
        return [_to_text(message.get("content"))]
    if message.get("type") == "function_call_output":
        return [_to_text(message.get("output"))]
    blocks = message.get("content")
    if message.get("role") != "user" or not isinstance(blocks, list):
        return None
    results = [block for block in blocks if block.get("type") == "tool_result"]
    return [_to_text(block.get("content")) for block in results] if results else None


def _to_text(content: object) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        return ""
    return "".join(str(block.get("text", "")) for block in content if isinstance(block, dict))


Script: TypeAlias = Sequence[Turn | Fail] | Callable[[Request], Turn | Fail]
"""Answers in order, or a function that answers."""
