"""`CodeInterpreterMiddleware`: a session in every thread of an agent, with its messages' files.

How this works: before a turn, files in the user's messages are put into the thread's session, and
the messages keep notes in their place, under the same ids. Before each call of the model, the
images of tool messages are put where that model can take them, and what is in /mnt/data is told in
the user's last message; both only in what is sent, not in the state. The session belongs to the
thread, not to the run: it goes on after interrupts, and in the next turn, and ends by its time to
live. The state holds no live object, so every checkpointer can keep it. A session that cannot be
reached ends no run: the model is told, and the files are put there in a later turn.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, NotRequired, cast

from langchain.agents.middleware.types import (
    AgentMiddleware,
    AgentState,
    ContextT,
    ModelRequest,
    ModelResponse,
    PrivateStateAttr,
    ResponseT,
)
from langchain_core.messages import AnyMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.runnables import ensure_config
from langgraph.prebuilt.tool_node import ToolCallRequest
from langgraph.runtime import Runtime
from langgraph.types import Command

from ci_tools.errors import (
    CIToolsError,
    FileTooLargeError,
    InvalidArgumentError,
    InvalidPathError,
    LimitError,
    NotFoundError,
)
from ci_tools.models import File, new_id
from langchain_ci_tools.access import Action
from langchain_ci_tools.api import Put, SessionAPI
from langchain_ci_tools.artifacts import to_step
from langchain_ci_tools.attachments import Attachment, Kind, find_attachments, to_unused
from langchain_ci_tools.content import file_line
from langchain_ci_tools.failures import explain
from langchain_ci_tools.images import Images, place_images
from langchain_ci_tools.sessions import LOST, Found, Where
from langchain_ci_tools.toolkit import CodeInterpreterToolkit

DEFAULT_TOOLS = ("run_code", "run_command", "list_files", "read_file", "get_run_step")
"""The tools that an agent gets if none are named."""

SYSTEM_PROMPT = """\
You have a live Jupyter kernel: run_code keeps variables, imports and files for the whole \
conversation. Files that the user attaches are in /mnt/data, which is also its working directory. \
Compute and look at data with code instead of guessing; if code fails, read the error, correct it \
and run it again. Write files for the user into /mnt/data and name them in your answer."""
"""What the model is told, once."""

_LISTED = 50
"""Files in /mnt/data that the model is told of at the beginning of a turn."""

_NAMES = 10_000
"""Files whose names a file without one must not take."""

_REFUSALS = (FileTooLargeError, InvalidArgumentError, InvalidPathError, LimitError)
"""Errors that a file will meet again in a later turn."""


class CodeInterpreterState(AgentState[ResponseT]):
    """What the middleware keeps in an agent's state; all of it is private."""

    code_interpreter_thread: NotRequired[Annotated[str, PrivateStateAttr]]
    """The thread of the session, where the run's configuration names none."""

    code_interpreter_files: NotRequired[Annotated[list[str], PrivateStateAttr]]
    """Lines about /mnt/data as it was at the beginning of the turn."""

    code_interpreter_staged: NotRequired[Annotated[list[str], PrivateStateAttr]]
    """The ids of messages whose files have been put into the session."""


@dataclass(kw_only=True)
class _Turn:
    """What there is to do at the beginning of a turn."""

    where: Where
    messages: list[HumanMessage]
    """Those with files that are not staged."""

    staged: list[str]
    earlier: str | None
    """The session that earlier steps ran in."""

    update: dict[str, Any] = field(default_factory=dict)


class CodeInterpreterMiddleware(
    AgentMiddleware[CodeInterpreterState[ResponseT], ContextT, ResponseT]
):
    """Give an agent of `create_agent` a code interpreter that belongs to the thread."""

    state_schema = CodeInterpreterState  # type: ignore[assignment]

    def __init__(
        self,
        toolkit: CodeInterpreterToolkit,
        *,
        tools: Sequence[str] = DEFAULT_TOOLS,
        images: Images | None = None,
        keep: Sequence[Kind] = ("image",),
        system_prompt: str = SYSTEM_PROMPT,
        session_id: str | None = None,
    ) -> None:
        """Prepare the tools; nothing is opened before it is used.

        `images` says where images of results go; None takes the toolkit's choice. Files of the
        kinds in `keep` stay in the messages too, for models that look at them. With `session_id`
        all threads work in that session. Close the toolkit, not the middleware.
        """
        super().__init__()
        self._access = toolkit.access
        self._images: Images = toolkit.images if images is None else images
        self._keep = frozenset(keep)
        self._system_prompt = system_prompt
        self._session_id = session_id
        # The images are placed when the model is known, so the tools give them in any case.
        self.tools = toolkit.make_tools(*tools, session_id=session_id, images="tool")
        self._names = {tool.name for tool in self.tools}

    def before_agent(
        self, state: CodeInterpreterState[ResponseT], runtime: Runtime[ContextT]
    ) -> dict[str, Any] | None:
        """Put new files into the session, and look what is in it."""
        turn = self._plan(state)
        if self._needs_session(turn):
            try:
                turn.update |= self._access.call(turn.where, self._prepare(turn))
            except Exception as error:  # noqa: BLE001 - `explain` logs it
                turn.update |= _miss(error)
        return turn.update or None

    async def abefore_agent(
        self, state: CodeInterpreterState[ResponseT], runtime: Runtime[ContextT]
    ) -> dict[str, Any] | None:
        """Put new files into the session, and look what is in it."""
        turn = self._plan(state)
        if self._needs_session(turn):
            try:
                turn.update |= await self._access.acall(turn.where, self._prepare(turn))
            except Exception as error:  # noqa: BLE001 - `explain` logs it
                turn.update |= _miss(error)
        return turn.update or None

    def wrap_model_call(
        self,
        request: ModelRequest[ContextT],
        handler: Callable[[ModelRequest[ContextT]], ModelResponse[ResponseT]],
    ) -> ModelResponse[ResponseT]:
        """Send the model what it can take."""
        return handler(self._fit(request))

    async def awrap_model_call(
        self,
        request: ModelRequest[ContextT],
        handler: Callable[[ModelRequest[ContextT]], Awaitable[ModelResponse[ResponseT]]],
    ) -> ModelResponse[ResponseT]:
        """Send the model what it can take."""
        return await handler(self._fit(request))

    def wrap_tool_call(
        self,
        request: ToolCallRequest,
        handler: Callable[[ToolCallRequest], ToolMessage | Command[Any]],
    ) -> ToolMessage | Command[Any]:
        """Let what a tool does be in the agent's session too: a `SessionSandbox`, a subagent."""
        with self._access.use_in_tools(self._find_where(request)):
            return handler(request)

    async def awrap_tool_call(
        self,
        request: ToolCallRequest,
        handler: Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]],
    ) -> ToolMessage | Command[Any]:
        """Let what a tool does be in the agent's session too: a `SessionSandbox`, a subagent."""
        with self._access.use_in_tools(self._find_where(request)):
            return await handler(request)

    def _find_where(self, request: ToolCallRequest) -> Where:
        if self._session_id is not None:
            return Where(session_id=self._session_id)
        where = self._access.find_where(ensure_config(), request.state)
        return where or self._access.fallback

    def _plan(self, state: CodeInterpreterState[ResponseT]) -> _Turn:
        update: dict[str, Any] = {}
        where: Where | None = Where(session_id=self._session_id)
        if self._session_id is None:
            where = self._access.find_where(ensure_config(), state)
        if where is None:
            where = Where(thread=new_id("run-"))
            update["code_interpreter_thread"] = where.thread
        staged = state.get("code_interpreter_staged", [])
        return _Turn(
            where=where,
            messages=[
                message
                for message in state["messages"]
                if isinstance(message, HumanMessage)
                and message.id not in staged
                and find_attachments(message.content)
            ],
            staged=staged,
            earlier=self._find_earlier(state["messages"]),
            update=update,
        )

    def _needs_session(self, turn: _Turn) -> bool:
        """Tell whether the thread has a session already, or must have one now."""
        return bool(
            turn.messages
            or turn.earlier
            or turn.staged
            or self._session_id
            or self._access.sessions.knows(turn.where)
        )

    def _find_earlier(self, messages: Sequence[AnyMessage]) -> str | None:
        for message in reversed(messages):
            if isinstance(message, ToolMessage) and message.name in self._names:
                try:
                    return to_step(message.artifact).session_id
                except TypeError:
                    continue
        return None

    def _prepare(self, turn: _Turn) -> Action[dict[str, Any]]:
        async def action(service: SessionAPI, found: Found, put: Put) -> dict[str, Any]:
            messages = [
                await _stage_message(service, found.id, message, keep=self._keep)
                for message in turn.messages
            ]
            notes = []
            if found.is_new or turn.earlier not in (None, found.id):
                notes.append(LOST)
            try:
                notes += _list(await service.list_files(found.id, limit=_LISTED + 1))
            except NotFoundError:
                raise
            except CIToolsError as error:
                notes.append(f"The files cannot be listed: {explain(error)}")
            staged = [*turn.staged, *(message.id for message in messages if message.id)]
            update: dict[str, Any] = {"code_interpreter_files": notes}
            if messages:
                update |= {"messages": messages, "code_interpreter_staged": staged}
            return update

        return action

    def _fit(self, request: ModelRequest[ContextT]) -> ModelRequest[ContextT]:
        state = cast("CodeInterpreterState[Any]", request.state)
        staged = state.get("code_interpreter_staged", [])
        messages: Sequence[AnyMessage] = [
            _leave_out(message, keep=self._keep)
            if isinstance(message, HumanMessage) and message.id not in staged
            else message
            for message in request.messages
        ]
        messages = place_images(messages, self._images, model=request.model)
        if notes := state.get("code_interpreter_files"):
            messages = _tell(messages, "\n".join(notes))
        system = request.system_message
        if self._system_prompt:
            blocks = [] if system is None else [*system.content_blocks]
            text = {"type": "text", "text": self._system_prompt}
            system = SystemMessage(content=cast("list[str | dict[Any, Any]]", [*blocks, text]))
        return request.override(messages=messages, system_message=system)


async def _stage_message(
    service: SessionAPI, session_id: str, message: HumanMessage, *, keep: frozenset[Kind]
) -> HumanMessage:
    """Put the files of a message into the session; return it with notes, under the same id."""
    content = [*cast("list[str | dict[str, Any]]", message.content)]
    attachments = find_attachments(content)
    notes = [await _stage(service, session_id, attachment) for attachment in attachments]
    for attachment, note in reversed([*zip(attachments, notes, strict=True)]):
        if note is None:
            continue
        stays = attachment.kind in keep and attachment.data is not None
        start = attachment.index + stays
        content[start : attachment.index + 1] = [{"type": "text", "text": note}]
    return message.model_copy(update={"content": content})


async def _stage(service: SessionAPI, session_id: str, attachment: Attachment) -> str | None:
    """Put a file into the session; return the note, or None if it is none of ours."""
    try:
        if attachment.data is not None:
            name = attachment.name
            if not attachment.is_named:  # a second pasted image is no new version of the first
                files = await service.list_files(session_id, limit=_NAMES)
                name = to_unused(name, {file.path for file in files})
            file = await service.upload_file(session_id, name, attachment.data)
        else:
            assert attachment.file_id is not None
            file = await service.uploads.stage(session_id, attachment.file_id)
    except NotFoundError as error:
        if error.kind == "session":
            raise
        return None  # the id of a file that the provider keeps
    except _REFUSALS as error:
        return f"[The attached file {attachment.name} is not in /mnt/data: {explain(error)}]"
    return f"[Attached file: /mnt/data/{file_line(file)}]"


def _leave_out(message: HumanMessage, *, keep: frozenset[Kind]) -> HumanMessage:
    """Return a message without files that are not in the session yet, as no model takes them."""
    late = [
        attachment
        for attachment in find_attachments(message.content)
        if attachment.data is not None and attachment.kind not in keep
    ]
    if not late:
        return message
    content = [*cast("list[str | dict[str, Any]]", message.content)]
    for attachment in late:
        text = f"[The attached file {attachment.name} is not in /mnt/data yet.]"
        content[attachment.index] = {"type": "text", "text": text}
    return message.model_copy(update={"content": content})


def _miss(error: Exception) -> dict[str, Any]:
    """Return what the model is told where its session cannot be reached."""
    return {"code_interpreter_files": [f"The code interpreter cannot be used: {explain(error)}"]}


def _list(files: Sequence[File]) -> list[str]:
    if not files:
        return ["/mnt/data was empty at the beginning of this turn."]
    lines = ["In /mnt/data at the beginning of this turn:"]
    lines += [f"- {file_line(file)}" for file in files[:_LISTED]]
    if len(files) > _LISTED:
        lines.append("- and more")
    return lines


def _tell(messages: Sequence[AnyMessage], note: str) -> list[AnyMessage]:
    """Return the messages with a note at the end of the user's last one.

    Not in the system prompt: names of files come from outside and must carry no weight.
    """
    told = list(messages)
    for index in range(len(told) - 1, -1, -1):
        message = told[index]
        if isinstance(message, HumanMessage):
            content = [message.content] if isinstance(message.content, str) else message.content
            # Some packages take a mere text as the only content, but not among blocks.
            blocks = [
                {"type": "text", "text": item} if isinstance(item, str) else item
                for item in (*content, f"[{note}]")
            ]
            told[index] = message.model_copy(update={"content": blocks})
            break
    return told
